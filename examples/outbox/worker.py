#!/usr/bin/python3
"""Serves `tell-customer`: one call for each row of the outbox that was committed."""

import os

from tocsin import CloudEvent, Context, Worker

LEDGER = os.environ["OUTBOX_LEDGER"]
worker = Worker("outbox")


@worker.function("tell-customer")
def tell_customer(event: CloudEvent, ctx: Context) -> None:
    row = event.data["after"]
    with open(LEDGER, "a", encoding="utf-8") as ledger:
        ledger.write(f"{row['order_id']} {row['payload']['customer']}\n")


if __name__ == "__main__":
    worker.run()
