"""`report`: tables, charts and pages of a benchmark's results."""
