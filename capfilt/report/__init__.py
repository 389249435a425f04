"""One self-contained HTML file about a run: `write_report(run_folder)`.

Reads only what the run left in its folder; never starts a model, never touches the network.
"""

from capfilt.report.page import write_remote_report, write_report

__all__ = ["write_remote_report", "write_report"]
