"""Review: what to ask a human, what the answers mean, and a simulated human to measure both."""
