#!/bin/sh
echo "archive $CE_ID" >> "$LEDGER"
