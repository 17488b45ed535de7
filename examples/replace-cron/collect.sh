#!/bin/sh
echo "collect $CE_ID" >> "$LEDGER"
