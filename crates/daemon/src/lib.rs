//! What a machine runs: the agent, the manager while it is one, and the Engine API
