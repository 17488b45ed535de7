#!/usr/bin/python3
"""The Python worker of the quickstart: reads a CSV file and emits one event per order in it."""

import csv
import os

from tocsin import CloudEvent, Context, Reject, Worker

INBOX = os.path.join(os.environ["QUICKSTART_DIR"], "inbox")
worker = Worker("quickstart-python")


@worker.function("import-csv")
def import_csv(event: CloudEvent, ctx: Context) -> None:
    name = event.subject
    print(f"import-csv: {name}, attempt {ctx.attempt}", flush=True)
    try:
        with open(os.path.join(INBOX, name), newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise Reject(f"{name} is gone") from error      # no retry will bring it back
    orders = [(row["order"], float(row["amount"])) for row in rows]
    for order, amount in orders:                        # durable together with the ack
        ctx.emit(type="com.example.order.placed", id=order, subject=order,
                 data={"order": order, "amount": amount})
    print(f"import-csv: {name} has {len(orders)} orders", flush=True)


if __name__ == "__main__":
    worker.run()
