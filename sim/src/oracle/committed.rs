//! Committed entries never change, indices never go back, and logs match (Raft §5.3, §5.4).

use super::memberships::Memberships;
use super::{Rule, Violation, stamps};
use crate::history::{CommittedEntry, CommittedLog};
use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId, Term};
use engine::raft::Membership;
use engine::record::{EntryKind, Record};
use std::collections::BTreeMap;

/// What a node said that it applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Which entry.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Its stamp.
    pub stamp: Hlc,
}

/// All that was ever committed, and a fingerprint of all that was ever proposed.
#[derive(Clone, Default, Debug)]
pub struct Committed {
    log: CommittedLog,
    /// Of each entry of the log: the term of the node that applied it first. The entry was committed
    /// in this term or an earlier one.
    known_in: Vec<Term>,
    memberships: Memberships,
    /// By index and term: the record, for as long as it may still be committed here first.
    records: BTreeMap<(LogIndex, Term), Record>,
}

impl Committed {
    /// Nothing is committed yet in a group that begins with these members.
    #[must_use]
    pub fn new(founding: Membership) -> Self {
        Self { memberships: Memberships::new(founding), ..Self::default() }
    }

    /// A record was seen on its way to a node or in its memory. Records of one index and term must be
    /// the same bytes (log matching).
    ///
    /// # Errors
    /// [`Rule::LogMatching`].
    pub fn saw_record(&mut self, at_us: u64, record: &Record) -> Result<(), Violation> {
        let (index, term) = (record.index(), record.term());
        if let Some(entry) = self.log.entry(index) {
            let is_same = entry.term != term
                || (entry.stamp == record.hlc() && entry.payload == record.payload());
            return if is_same { Ok(()) } else { Err(mismatch(at_us, index, term)) };
        }
        match self.records.get(&(index, term)) {
            Some(known) if known.bytes() != record.bytes() => Err(mismatch(at_us, index, term)),
            Some(_) => Ok(()),
            None => {
                self.records.insert((index, term), record.clone());
                Ok(())
            }
        }
    }

    /// A node applied an entry in its present term, `in_term`. The first to do so decides; the others
    /// must agree.
    ///
    /// # Errors
    /// [`Rule::CommittedStays`] or [`Rule::Stamps`].
    pub fn applied(
        &mut self,
        at_us: u64,
        node: NodeId,
        in_term: Term,
        applied: Applied,
    ) -> Result<(), Violation> {
        let Applied { index, term, stamp } = applied;
        let violation = |explanation| Err(Violation::new(Rule::CommittedStays, at_us, explanation));
        if let Some(entry) = self.log.entry(index) {
            if (entry.term, entry.stamp) == (term, stamp) {
                return Ok(());
            }
            return violation(format!(
                "node {node} applied entry {index} of term {term}, stamp {stamp}; committed was \
                 term {}, stamp {}",
                entry.term, entry.stamp
            ));
        }
        let last = self.log.last_index();
        if index != last.next() {
            return violation(format!(
                "node {node} applied entry {index}, and nobody has applied {}",
                last.next()
            ));
        }
        let before = self.log.entry(last).map_or(Hlc::ZERO, |entry| entry.stamp);
        stamps::check_step(at_us, index, before, stamp)?;
        let Some(record) = self.records.remove(&(index, term)) else {
            return violation(format!(
                "node {node} applied entry {index} of term {term}, which was never seen on any \
                 disk or wire"
            ));
        };
        if record.hlc() != stamp {
            return violation(format!(
                "node {node} applied entry {index} with stamp {stamp}, its record says {}",
                record.hlc()
            ));
        }
        // Other proposals for this place are dead now.
        self.records = self.records.split_off(&(index.next(), Term::ZERO));
        let (kind, payload) = (record.kind(), record.payload_slice(0, payload_len(&record)));
        let payload = payload.expect("a payload contains itself");
        if kind == EntryKind::Membership {
            self.memberships.committed(at_us, index, &payload)?;
        }
        self.log.push(CommittedEntry { index, term, stamp, kind, payload });
        self.known_in.push(in_term);
        Ok(())
    }

    /// Entries that were certainly committed before `term`.
    pub fn committed_before(&self, term: Term) -> impl Iterator<Item = &CommittedEntry> {
        let entries = self.log.entries().iter().zip(&self.known_in);
        entries.filter(move |(_, known_in)| **known_in < term).map(|(entry, _)| entry)
    }

    /// A node's state came from a snapshot up to this entry.
    ///
    /// # Errors
    /// [`Rule::CommittedStays`]: that is not what is committed there.
    pub fn installed(&self, at_us: u64, node: NodeId, applied: Applied) -> Result<(), Violation> {
        let Applied { index, term, stamp } = applied;
        let entry = self.log.entry(index).map(|entry| (entry.term, entry.stamp));
        if entry == Some((term, stamp)) {
            return Ok(());
        }
        let explanation = format!(
            "node {node} installed a snapshot up to entry {index} of term {term}, stamp {stamp}; \
             committed is {entry:?}"
        );
        Err(Violation::new(Rule::CommittedStays, at_us, explanation))
    }

    /// The committed memberships.
    #[must_use]
    pub fn memberships(&self) -> &Memberships {
        &self.memberships
    }

    /// The committed entries.
    #[must_use]
    pub fn log(&self) -> &CommittedLog {
        &self.log
    }
}

fn payload_len(record: &Record) -> u32 {
    u32::try_from(record.payload().len()).expect("payloads are bounded by 32 bits")
}

fn mismatch(at_us: u64, index: LogIndex, term: Term) -> Violation {
    let explanation = format!("two different records have index {index} and term {term}");
    Violation::new(Rule::LogMatching, at_us, explanation)
}

/// A node's indices within one life of its process.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Indices {
    /// Its term.
    pub term: Term,
    /// Committed, as far as it knows.
    pub commit: LogIndex,
    /// Applied.
    pub applied: LogIndex,
}

impl Indices {
    /// The next observation of the same life.
    ///
    /// # Errors
    /// [`Rule::CommittedStays`] if anything went back.
    pub fn advance(&mut self, at_us: u64, node: NodeId, now: Self) -> Result<(), Violation> {
        let is_ahead = now.term >= self.term
            && now.commit >= self.commit
            && now.applied >= self.applied
            && now.applied <= now.commit;
        if !is_ahead {
            let explanation = format!("node {node} went from {self:?} to {now:?}");
            return Err(Violation::new(Rule::CommittedStays, at_us, explanation));
        }
        *self = now;
        Ok(())
    }
}

/// Checks that two logs, given by the terms of their entries, match: at the last place where their
/// terms agree and everywhere before it (Raft §5.3).
///
/// # Errors
/// [`Rule::LogMatching`].
pub fn check_logs_match(
    at_us: u64,
    nodes: (NodeId, NodeId),
    range: core::ops::RangeInclusive<u64>,
    term_at: impl Fn(LogIndex) -> (Option<Term>, Option<Term>),
) -> Result<(), Violation> {
    let mut agreed = None;
    for index in range.rev().map(LogIndex) {
        match (term_at(index), agreed) {
            ((Some(left), Some(right)), _) if left == right => agreed = agreed.or(Some(index)),
            ((left, right), Some(agreed)) => {
                let explanation = format!(
                    "nodes {} and {} agree at entry {agreed} and differ at {index}: {left:?}, \
                     {right:?}",
                    nodes.0, nodes.1
                );
                return Err(Violation::new(Rule::LogMatching, at_us, explanation));
            }
            (_, None) => {}
        }
    }
    Ok(())
}
