"""What falconimg claims of its speed, measured side by side with others: `python -m benchmarks`."""
