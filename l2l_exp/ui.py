"""make ui: MLflow's interface on a store, opened on its latest study."""

import os
import sys
import webbrowser
from pathlib import Path
from threading import Timer

from l2l_exp.tracking import Store, TrackingError

ADDRESS = "http://127.0.0.1:{port}"
PORT = 5000
SECONDS_TO_START = 8.0


def page(uri: str, port: int = PORT) -> str:
    """Address of the latest study of a store; of the interface itself where there is none.

    Args:
        uri: tracking URI.
        port: where the interface listens.
    """
    address = ADDRESS.format(port=port)
    try:
        studies = Store(uri).multiruns()
    except TrackingError:
        return address
    if not studies:
        return address
    latest = studies[-1]
    return f"{address}/#/experiments/{latest.experiment}/runs/{latest.run_id}"


def main() -> None:
    """Serve the store that is named on the command line, sqlite:///mlflow.db if none is."""
    uri = sys.argv[1] if len(sys.argv) > 1 else "sqlite:///mlflow.db"
    address = page(uri)
    print(f"the latest study: {address}", flush=True)
    if os.environ.get("DISPLAY") or sys.platform == "darwin":
        Timer(SECONDS_TO_START, webbrowser.open, [address]).start()
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    from mlflow.cli import cli

    sys.argv = [str(Path(sys.executable).with_name("mlflow")), "ui", "--workers", "1"]
    cli([*sys.argv[1:], "--port", str(PORT), "--backend-store-uri", uri])


if __name__ == "__main__":
    main()
