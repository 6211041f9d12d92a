"""A scoring run each night, from Airflow 3 (`airflow.sdk`, provider `standard`). Capitals are particular to a place.

`brainray.cron` says why it may run at any moment. The token comes from a file of the worker's, no Airflow connection
or variable; nothing secret is on the command line or in the log.
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

COMMAND = """
brainray submit score
  --input s3://ARCHIVE/mri
  --model s3://MODELS/brain-7
  --output s3://RESULTS/brain-7
  --max-failed 1%
"""

with DAG(
    dag_id="brainray_nightly",
    schedule="17 4 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    # A run scores all that is new, whatever day it came: days that were missed need no runs of their own.
    catchup=False,
    # The next one waits; two would do no harm, but only the first would have something to do.
    max_active_runs=1,
) as dag:
    BashOperator(
        task_id="score",
        bash_command=" ".join(COMMAND.split()),
        env={
            "RAY_API_SERVER_ADDRESS": "http://RAY-HEAD.EXAMPLE:8265",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": "/etc/brainray/RAY_TOKEN",
        },
        append_env=True,
        # Somebody else's run holds the output: skipped, and the next night goes on.
        skip_on_exit_code=5,
        # For code 1, a cluster that broke: the same command goes on where it was, or follows the job that still runs.
        # A wrong request (2), too many failed images (3) and another model's run (4) fail again, within seconds.
        retries=2,
        retry_delay=timedelta(minutes=5),
        # A run ends by itself when nothing is finished for ten minutes. A task that is cleared or marked as failed
        # stops watching; the job goes on, and the same command with --stop stops it.
        execution_timeout=None,
    )
