//! What the integration tests in `tests/tests/` share: Raft members whose every message, flush and
//! timeout is a decision of the test. What each suite covers stands in docs/testing.md.
//!
//! `group` is several members with a network between them; `solo` is one member that is handed its
//! messages directly, and `front` the same with an engine around it; `messages` and `image` make what
//! they need, and `lone` is a whole node without any other.

pub mod front;
pub mod group;
pub mod image;
pub mod lone;
pub mod messages;
pub mod solo;
