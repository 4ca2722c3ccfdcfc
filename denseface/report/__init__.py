"""What a network costs, how it is built, and how it does: summaries, diagrams, comparisons and charts."""
