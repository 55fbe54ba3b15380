//! Whose data directory this is.

use crate::ids::{ClusterId, GroupId, NodeId};
use alloc::string::String;
use alloc::vec::Vec;
use bincode::{Decode, Encode};

/// Written once by `init`, checked at every start.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The node.
    pub node: NodeId,
    /// Every member, this one too, with its address `host:port`, ordered by node.
    pub members: Vec<(NodeId, String)>,
}
