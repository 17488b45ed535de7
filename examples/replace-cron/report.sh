#!/bin/sh
# Its input is what stood behind the % in the crontab.
words=$(tr "\n" " ")
echo "report $CE_ID $words" >> "$LEDGER"
