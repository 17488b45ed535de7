#!/bin/sh
echo "backup $CE_ID" >> "$LEDGER"
