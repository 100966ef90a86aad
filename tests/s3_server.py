"""An S3-compatible server in a process of its own: `python -m tests.s3_server HOST PORT BUCKET`.

One request at a time, so that looking whether a file exists and writing it are one step, as they
are on servers made for use.
"""

import sys

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import s3_backends
from werkzeug.serving import run_simple


def main() -> None:
    host, port, bucket = sys.argv[1:]
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, "us-east-1")
    application = DomainDispatcherApplication(create_backend_app)
    run_simple(host, int(port), application, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
