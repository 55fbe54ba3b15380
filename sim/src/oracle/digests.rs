//! Equal state at equal index, on all nodes and across restarts.

use super::{Rule, Violation};
use engine::ids::{LogIndex, NodeId};
use std::collections::BTreeMap;

/// The digests seen so far.
#[derive(Clone, Default, Debug)]
pub struct Digests {
    seen: BTreeMap<LogIndex, (u64, NodeId)>,
}

/// One index in this many is compared during a run: digests cost a pass over the whole state.
const EVERY: u64 = 16;

impl Digests {
    /// Whether nodes that stop at this index should be compared. The same for all nodes, so that
    /// they meet.
    #[must_use]
    pub fn is_due(index: LogIndex) -> bool {
        index.0.is_multiple_of(EVERY)
    }

    /// A node has applied up to `index` and its state has this digest.
    ///
    /// # Errors
    /// [`Rule::EqualState`] with the other node.
    pub fn saw(
        &mut self,
        at_us: u64,
        node: NodeId,
        index: LogIndex,
        digest: u64,
    ) -> Result<(), Violation> {
        let (known, other) = *self.seen.entry(index).or_insert((digest, node));
        if known == digest {
            return Ok(());
        }
        let explanation = format!(
            "after entry {index} the state of node {node} is {digest:#018x}, that of node {other} \
             was {known:#018x}"
        );
        Err(Violation::new(Rule::EqualState, at_us, explanation))
    }

    /// Indices at which at least one node was looked at.
    #[must_use]
    pub fn compared(&self) -> usize {
        self.seen.len()
    }
}
