"""Programs that the tests run, and what they said when they failed."""

import subprocess


def run(*command: str, seconds: float = 120, stdin: str | None = None) -> str:
    """Run a program; what it printed. Fails the test with all that it said."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}{done.stdout}"
    return done.stdout
