//! Skeleton.
pub mod disk;
