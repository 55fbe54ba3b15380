//! Snapshots: what one says of the log is what was committed, and snapshots of one state are equal to
//! the byte, whoever made them.
//!
//! Whether the state in it is right shows when a node that installed it meets the others: `digests`.

use super::committed::Committed;
use super::{Rule, Violation};
use engine::ids::{LogIndex, NodeId};
use engine::raft::SnapshotMeta;
use std::collections::BTreeMap;

/// The snapshots seen so far.
#[derive(Clone, Default, Debug)]
pub struct Snapshots {
    /// As they were sent last, and by whom.
    seen: BTreeMap<LogIndex, (SnapshotMeta, NodeId)>,
}

impl Snapshots {
    /// A node sends a piece of a snapshot.
    ///
    /// # Errors
    /// [`Rule::Snapshots`].
    pub fn saw(
        &mut self,
        at_us: u64,
        node: NodeId,
        meta: &SnapshotMeta,
        committed: &Committed,
    ) -> Result<(), Violation> {
        let violation = |what: String| {
            let explanation = format!("node {node} sends {meta:?}: {what}");
            Err(Violation::new(Rule::Snapshots, at_us, explanation))
        };
        let last = meta.last.index;
        match self.seen.get(&last) {
            Some((known, _)) if known == meta => return Ok(()),
            Some((known, other))
                if (known.bytes, known.checksum) != (meta.bytes, meta.checksum) =>
            {
                return violation(format!("that of node {other} has other bytes: {known:?}"));
            }
            Some(_) | None => drop(self.seen.insert(last, (meta.clone(), node))),
        }
        let Some(entry) = committed.log().entry(last) else {
            return violation("its last entry is not committed".to_owned());
        };
        if (entry.term, entry.stamp) != (meta.last.term, meta.stamp) {
            return violation(format!("committed is term {}, stamp {}", entry.term, entry.stamp));
        }
        let (made_at, membership) = committed.memberships().at(last);
        if (made_at, membership) != (meta.membership.0, &meta.membership.1) {
            return violation(format!("the membership is {membership:?} since entry {made_at}"));
        }
        if meta.base.index > last {
            return violation("its log begins after its end".to_owned());
        }
        for index in (meta.base.index.0.max(1)..=last.0).map(LogIndex) {
            let told = meta.term_at(index);
            let term = committed.log().entry(index).map(|entry| entry.term);
            if told != term {
                return violation(format!("entry {index} has term {term:?}, not {told:?}"));
            }
        }
        Ok(())
    }

    /// Snapshots that were seen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen.len()
    }
}
