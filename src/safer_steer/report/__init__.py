"""The report: one self-contained HTML file per run and per evaluation, safe to open whatever the models wrote."""

from safer_steer.report.run import write_comparison, write_eval_report, write_run_report

__all__ = ["write_comparison", "write_eval_report", "write_run_report"]
