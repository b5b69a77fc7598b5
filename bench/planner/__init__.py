"""The planner under the crowds of its own table."""
