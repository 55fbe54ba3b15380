//! Nodes as child processes.
