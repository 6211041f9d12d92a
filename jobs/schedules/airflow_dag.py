"""A scoring run each night, from Airflow 3 (`airflow.sdk`, provider `standard`). Capitals are particular to a place.

`brainray.cron` says why it may run at any moment. The token is read from a file on the Airflow worker, not from a
connection or variable; neither the command line nor the log holds a secret.

Where brainray is installed in the worker's Python, a task can call it instead of submitting a job. That machine scores,
or the Ray cluster that its RAY_ADDRESS names; errors are exceptions, so a held output (`brainray.OutputHeld`) fails:

    PythonOperator(
        task_id="score",
        python_callable=brainray.score,
        op_args=["s3://ARCHIVE/mri", "s3://RESULTS/brain-7"],
        op_kwargs={"model": "s3://MODELS/brain-7"},
        do_xcom_push=False,  # the result holds tables
    )
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
    # The next run waits; two at once would do no harm, but the second would have nothing to do.
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
        # Another run holds the output: this one is skipped, and the next night goes on.
        skip_on_exit_code=5,
        # For code 1, a cluster that broke: the same command goes on where it was, or follows the job that still runs.
        # A wrong request (2), too many failed images (3) and another model's run (4) fail again, within seconds.
        retries=2,
        retry_delay=timedelta(minutes=5),
        # A run ends by itself when nothing is finished for ten minutes. A task that is cleared or marked as failed
        # stops watching; the job goes on, and the same command with --stop stops it.
        execution_timeout=None,
    )
