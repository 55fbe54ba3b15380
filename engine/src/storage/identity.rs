//! Whose data directory this is, and which founders a cluster id stands for.
//!
//! Owns the value in the identity file and the binding of a cluster id to its founders: eight random
//! bytes, and a checksum of these, the group and every founder with its address. Nodes that were
//! initialised with different lists cannot have one id, so no id ever names two clusters. Never
//! decides who is a member later: that is `raft::membership`. Next: `recovery`, which writes it.

use crate::ids::{ClusterId, GroupId, NodeId};
use crate::wire;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bincode::{Decode, Encode};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a cluster id that are random; the rest is their checksum.
const RANDOM_BYTES: usize = 8;

/// Written once by `init` or `join`, checked at every start.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The node.
    pub node: NodeId,
    /// Where the others and the clients reach this node, `host:port`.
    pub address: String,
    /// The members that the cluster began with, this one too, each with its address, ordered by
    /// node; empty on a node that joined later, which learns them from the log.
    pub members: Vec<(NodeId, String)>,
}

/// A cluster id does not belong to the founders that it is given with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "cluster {cluster} was not made for the members {founders}; give the same numbers and addresses \
     as on the node where its id was made, or make a cluster of its own with `--cluster new`"
)]
pub struct FoundersError {
    /// The id.
    pub cluster: ClusterId,
    /// The founders that were given, as `1=host:port`, separated by commas.
    pub founders: String,
}

impl Identity {
    /// The identity of a founder; its address is that in the list, and empty if it is not there.
    #[must_use]
    pub fn founder(
        cluster: ClusterId,
        group: GroupId,
        node: NodeId,
        members: Vec<(NodeId, String)>,
    ) -> Self {
        let own = members.iter().find(|(founder, _)| *founder == node);
        let address = own.map(|(_, address)| address.clone()).unwrap_or_default();
        Self { cluster, group, node, address, members }
    }

    /// Whether this node was there from the beginning.
    #[must_use]
    pub fn is_founder(&self) -> bool {
        !self.members.is_empty()
    }

    /// Checks that the cluster's id was made for these founders. A node that joined has none to check.
    ///
    /// # Errors
    /// It was made for others.
    pub fn check_founders(&self) -> Result<(), FoundersError> {
        if !self.is_founder() || self.cluster.is_of(self.group, &self.members) {
            return Ok(());
        }
        let founders: Vec<String> = self
            .members
            .iter()
            .map(|(node, address)| [&node.to_string(), "=", address].concat())
            .collect();
        Err(FoundersError { cluster: self.cluster, founders: founders.join(", ") })
    }
}

impl ClusterId {
    /// A new cluster's id, bound to those who found it. `random` must never repeat.
    #[must_use]
    pub fn mint(random: [u8; RANDOM_BYTES], group: GroupId, founders: &[(NodeId, String)]) -> Self {
        let mut id = [0; 16];
        id[..RANDOM_BYTES].copy_from_slice(&random);
        let checksum = founders_checksum(random, group, founders);
        id[RANDOM_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        Self(id)
    }

    /// Whether this id was minted for these founders. Their order does not matter.
    #[must_use]
    pub fn is_of(&self, group: GroupId, founders: &[(NodeId, String)]) -> bool {
        let random = self.0[..RANDOM_BYTES].try_into().expect("eight of sixteen bytes");
        *self == Self::mint(random, group, founders)
    }
}

fn founders_checksum(
    random: [u8; RANDOM_BYTES],
    group: GroupId,
    founders: &[(NodeId, String)],
) -> u64 {
    let mut founders: Vec<&(NodeId, String)> = founders.iter().collect();
    founders.sort_unstable();
    let mut bytes = Vec::from(random);
    wire::encode_into(&group, &mut bytes);
    wire::encode_into(&founders, &mut bytes);
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(0);
    const RANDOM: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    fn founders(list: &[(u64, &str)]) -> Vec<(NodeId, String)> {
        list.iter().map(|(node, address)| (NodeId(*node), (*address).into())).collect()
    }

    #[test]
    fn a_cluster_id_is_of_its_founders_in_any_order_and_of_no_others() {
        let own = founders(&[(1, "a:1"), (2, "b:1"), (3, "c:1")]);
        let id = ClusterId::mint(RANDOM, GROUP, &own);
        assert!(id.is_of(GROUP, &own));
        assert!(id.is_of(GROUP, &founders(&[(3, "c:1"), (1, "a:1"), (2, "b:1")])));
        for other in [
            founders(&[]),
            founders(&[(1, "a:1"), (2, "b:1")]),
            founders(&[(1, "a:1"), (2, "b:1"), (4, "c:1")]),
            founders(&[(1, "a:1"), (2, "b:1"), (3, "c:2")]),
            founders(&[(1, "b:1"), (2, "a:1"), (3, "c:1")]),
            founders(&[(1, "a:1"), (2, "b:1"), (3, "c:1"), (4, "d:1")]),
        ] {
            assert!(!id.is_of(GROUP, &other), "{other:?}");
        }
        assert!(!id.is_of(GroupId(1), &own));
        assert_ne!(id, ClusterId::mint([9; 8], GROUP, &own));
    }

    #[test]
    fn a_founder_with_another_list_is_told_which_and_a_joined_node_is_not_asked() {
        let id = ClusterId::mint(RANDOM, GROUP, &founders(&[(1, "a:1"), (2, "b:1")]));
        let wrong = founders(&[(1, "a:1"), (2, "b:2")]);
        let identity = Identity::founder(id, GROUP, NodeId(2), wrong);
        assert_eq!(identity.address, "b:2");
        let error = identity.check_founders().expect_err("another address");
        assert_eq!(error.founders, "1=a:1, 2=b:2");
        let joined = Identity { members: Vec::new(), ..identity };
        assert_eq!(joined.check_founders(), Ok(()));
    }

    #[test]
    fn cluster_ids_keep_their_bytes() {
        let id = ClusterId::mint(RANDOM, GROUP, &founders(&[(1, "a:1")]));
        assert_eq!(id.to_string(), "01020304-0506-0708-443e-f5be4c17ee8e");
    }
}
