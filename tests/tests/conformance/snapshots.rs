//! Snapshots (§7). Entries from before a snapshot's last may be kept, so that a follower goes on from the
//! snapshot's base and gets the rest as entries.

use engine::ids::{LogIndex, NodeId};
use engine::raft::{FlowStatus, Membership, RoleName, Snapshot};
use tests::group::{Group, settings};
use tests::image::records;
use tests::messages::{
    append, matched, matched_in_round, piece, piece_response, position, pre_vote_request,
    pre_vote_response, rejected, stale_term, vote_request, vote_response, wants_snapshot,
};
use tests::solo::Solo;

/// Bytes of state in the snapshots here; a piece has at most 100.
const BYTES: usize = 250;

/// A snapshot that a leader of term 2 made after entries of terms 1, 1, 2, 2, of which the log keeps
/// the last two.
fn snapshot() -> Snapshot {
    snapshot_at(4, 2)
}

/// The same at `last`, with one before it at `base`.
fn snapshot_at(last: u64, base: u64) -> Snapshot {
    let mut leader = Solo::replicating(3, 2, &[1, 1]);
    for index in 4..=last {
        leader.propose();
        leader.hear(2, matched(2, index));
    }
    let stamp = leader.raft.last_stamp();
    if base > 0 {
        let before = leader.raft.make_snapshot(LogIndex(base), stamp, Vec::new());
        leader.raft.on_snapshot_saved(before.meta);
    }
    leader.raft.make_snapshot(LogIndex(last), stamp, vec![last as u8; BYTES])
}

/// A follower of term 2 with a log of `terms`.
fn follower(terms: &[u64]) -> Solo {
    let mut solo = Solo::with_log(3, 2, terms);
    solo.hear(2, append(2, position(0, 0), 0, Vec::new()));
    solo.sent.clear();
    solo
}

/// All pieces of a snapshot arrive.
fn hear_all(solo: &mut Solo, snapshot: &Snapshot) {
    for (offset, len) in [(0, 100), (100, 100), (200, 50)] {
        solo.hear(2, piece(2, snapshot, offset, len));
    }
}

/// Figure 13: the follower "discard[s] the entire log", takes the state, and goes on after the base. It
/// says so like after an append, and what is in the state is committed.
#[test]
fn a_follower_begins_anew_from_a_snapshot() {
    let snapshot = snapshot();
    for log in [&[][..], &[1], &[1, 1, 1, 1, 1]] {
        let mut solo = follower(log);
        let sent = solo.ask(2, piece(2, &snapshot, 0, 100));
        assert_eq!(sent, [(2, piece_response(2, position(2, 4), 100))]);
        let sent = solo.ask(2, piece(2, &snapshot, 100, 100));
        assert_eq!(
            (sent, solo.installed.len()),
            (vec![(2, piece_response(2, position(2, 4), 200))], 0)
        );
        let sent = solo.ask(2, piece(2, &snapshot, 200, 50));
        assert_eq!(solo.installed, std::slice::from_ref(&snapshot));
        assert_eq!((solo.raft.base(), solo.commit()), (position(1, 2), 4));
        assert_eq!(sent, [(2, matched(2, 2))], "{log:?}");
        // The rest come as entries.
        let sent = solo.ask(2, append(2, position(1, 2), 4, records(3, &[2, 2])));
        assert_eq!((sent, solo.log()), (vec![(2, matched(2, 4))], vec![2, 2]));
        // So it stands on the disk.
        let again = solo.restarted(settings(1, 3, 2));
        assert_eq!(
            (again.raft.base(), again.commit(), again.log()),
            (position(1, 2), 4, vec![2, 2])
        );
    }
}

/// Row: restore with learners and with outgoing voters. The membership of the snapshot counts, whatever
/// the log said before.
#[test]
fn the_membership_of_the_snapshot_counts() {
    let three = [1, 2, 3].map(NodeId).to_vec();
    let learners = vec![NodeId(8), NodeId(9)];
    let joint = Membership::joint(vec![NodeId(1), NodeId(2), NodeId(7)], three.clone());
    for membership in
        [Membership::new(three).with_learners(learners.clone()), joint.with_learners(learners)]
    {
        let mut snapshot = snapshot();
        snapshot.meta.membership = (LogIndex(3), membership.clone());
        let mut solo = follower(&[1]);
        hear_all(&mut solo, &snapshot);
        assert_eq!(solo.raft.membership(), &membership);
        assert_eq!(solo.raft.membership_index(), LogIndex(3));
        let again = solo.restarted(settings(1, 3, 2));
        assert_eq!(again.raft.membership(), &membership);
    }
}

/// Figure 13, step 6 and row "ignore an older one": if the log holds the snapshot's last entry, nothing is
/// discarded; what it covers is committed.
#[test]
fn a_snapshot_of_what_the_log_holds_already_is_not_taken() {
    let snapshot = snapshot();
    let mut solo = follower(&[1, 1, 2, 2, 2]);
    let sent = solo.ask(2, piece(2, &snapshot, 0, 100));
    assert_eq!((solo.commit(), solo.log(), solo.installed.len()), (4, vec![1, 1, 2, 2, 2], 0));
    assert_eq!(sent, [(2, matched(2, 4))], "not one further piece is wanted");
    // One that is older than what is committed is no news either.
    let mut solo = follower(&[1, 1, 2, 2, 2]);
    solo.hear(2, append(2, position(2, 5), 5, Vec::new()));
    hear_all(&mut solo, &snapshot);
    assert_eq!((solo.commit(), solo.log(), solo.installed.len()), (5, vec![1, 1, 2, 2, 2], 0));
    // And a newer one that was installed is not replaced by an older one.
    let mut solo = follower(&[]);
    let newer = snapshot_at(6, 2);
    hear_all(&mut solo, &newer);
    hear_all(&mut solo, &snapshot);
    assert_eq!((solo.installed.len(), solo.commit()), (1, 6));
}

/// Until its log has grown up to the snapshot's last entry, a member never campaigns, and gives its vote
/// only to logs that reach it: it forgets nothing that it ever vouched for.
#[test]
fn a_log_that_lags_behind_its_snapshot_elects_nobody_who_lacks_it() {
    let mut solo = follower(&[]);
    hear_all(&mut solo, &snapshot());
    assert_eq!((solo.log(), solo.commit()), (vec![], 4));
    for _ in 0..5 {
        solo.wait(300);
        assert_eq!(solo.raft.role(), RoleName::Follower);
    }
    for (last, is_granted) in [(position(2, 3), false), (position(2, 4), true)] {
        let term = solo.raft.term().0 + 1;
        let answer = solo.ask(3, pre_vote_request(term, last));
        let expected = pre_vote_response(if is_granted { term } else { term - 1 }, is_granted);
        assert_eq!(answer, [(3, expected)]);
        let answer = solo.ask(3, vote_request(term, last));
        assert_eq!(answer, [(3, vote_response(term, is_granted))]);
    }
    let term = solo.raft.term().0;
    solo.hear(2, append(term, position(1, 2), 4, records(3, &[2, 2])));
    solo.time_out();
    assert_eq!(solo.raft.role(), RoleName::PreCandidate, "now it has all");
}

/// A snapshot tells the terms of the entries that are still to come; others are not taken for them.
#[test]
fn entries_up_to_the_snapshots_last_must_be_those_of_the_snapshot() {
    let mut solo = follower(&[]);
    hear_all(&mut solo, &snapshot());
    solo.hear(2, append(2, position(1, 2), 4, records(3, &[1, 1])));
    assert_eq!(solo.log(), [0; 0]);
    solo.hear(2, append(2, position(1, 2), 4, records(3, &[2, 2])));
    assert_eq!(solo.log(), [2, 2]);
}

/// Row: slow node restores. Pieces that are lost, doubled or overtaken are asked for again from where the
/// bytes end; damage begins again at the front.
#[test]
fn pieces_in_any_order_make_one_snapshot() {
    let snapshot = snapshot();
    let mut solo = follower(&[]);
    let asks_from = |solo: &mut Solo, offset, len, next| {
        let sent = solo.ask(2, piece(2, &snapshot, offset, len));
        assert_eq!(sent, [(2, piece_response(2, position(2, 4), next))]);
    };
    asks_from(&mut solo, 100, 100, 0);
    asks_from(&mut solo, 0, 100, 100);
    asks_from(&mut solo, 0, 100, 100);
    asks_from(&mut solo, 200, 50, 100);
    asks_from(&mut solo, 100, 100, 200);
    solo.hear(2, piece(2, &snapshot, 200, 50));
    assert_eq!(solo.installed, std::slice::from_ref(&snapshot));
    // One flipped byte.
    let mut damaged = snapshot.clone();
    let mut bytes = damaged.bytes.to_vec();
    bytes[120] ^= 1;
    damaged.bytes = bytes.into();
    let mut solo = follower(&[]);
    solo.hear(2, piece(2, &damaged, 0, 200));
    let sent = solo.ask(2, piece(2, &damaged, 200, 50));
    assert_eq!(sent, [(2, piece_response(2, position(2, 4), 0))]);
    hear_all(&mut solo, &snapshot);
    assert_eq!(solo.installed, [snapshot]);
}

/// Row: snapshot in flight while leadership changes. Equal states have equal bytes, so that the next
/// leader's pieces go on where the last one's ended; pieces of the deposed leader do not count.
#[test]
fn a_transfer_of_a_snapshot_goes_on_under_the_next_leader() {
    let snapshot = snapshot();
    let mut solo = follower(&[]);
    solo.hear(2, piece(2, &snapshot, 0, 100));
    // The next leader keeps more of the log.
    let mut other = snapshot.clone();
    other.meta.base = position(1, 1);
    let sent = solo.ask(3, piece(5, &other, 0, 100));
    assert_eq!(sent, [(3, piece_response(5, position(2, 4), 100))]);
    let sent = solo.ask(2, piece(2, &snapshot, 100, 100));
    assert_eq!(sent, [(2, stale_term(5))], "deposed, and told so");
    solo.hear(3, piece(5, &other, 100, 100));
    solo.hear(3, piece(5, &other, 200, 50));
    assert_eq!((solo.installed.len(), solo.raft.base()), (1, position(1, 1)));
    // A different one starts from the front.
    let mut solo = follower(&[]);
    solo.hear(2, piece(2, &snapshot, 0, 100));
    let sent = solo.ask(3, piece(5, &snapshot_at(5, 2), 100, 100));
    assert_eq!(sent, [(3, piece_response(5, position(2, 5), 0))]);
}

/// A leader of term 2 with six entries, all in its newest snapshot, of which the first five are gone:
/// the one before it was made then.
fn leader() -> Solo {
    let mut solo = Solo::in_role(RoleName::Leader, 3, 2, &[1, 1, 1, 1]);
    solo.hear(3, matched(2, 5));
    solo.snapshot(BYTES);
    solo.propose();
    solo.hear(3, matched(2, 6));
    solo.snapshot(BYTES);
    assert_eq!((solo.raft.base(), solo.commit()), (position(2, 5), 6));
    solo.sent.clear();
    solo
}

fn flow(solo: &Solo) -> FlowStatus {
    solo.raft.followers()[0].flow
}

/// The pieces that were sent: offset and length.
fn sent_pieces(solo: &mut Solo) -> Vec<(u64, usize)> {
    let pieces = solo.take_sent().into_iter().filter_map(|(_, message)| match message.body {
        engine::raft::Body::Snapshot { offset, chunk, .. } => Some((offset, chunk.len())),
        _ => None,
    });
    pieces.collect()
}

/// Row: provide while a follower is behind. A follower whose next entry is gone gets the snapshot, piece
/// by piece, and no entries meanwhile; success shows as an answer to an append.
#[test]
fn a_follower_whose_next_entry_is_gone_gets_the_snapshot_and_then_entries() {
    let mut solo = leader();
    solo.hear(2, rejected(2, 4, position(1, 1)));
    assert_eq!(flow(&solo), FlowStatus::Snapshot { received: 0, total: BYTES as u64 });
    assert_eq!(solo.pieces, [(2, 6, 0, 100)]);
    while !solo.pieces.is_empty() {
        solo.read_piece();
    }
    assert_eq!(sent_pieces(&mut solo), [(0, 100), (100, 100), (200, 50)]);
    solo.propose();
    assert_eq!(solo.entries_sent_to(2), [[0; 0]; 0]);
    solo.hear(2, piece_response(2, position(2, 6), 200));
    assert_eq!(flow(&solo), FlowStatus::Snapshot { received: 200, total: BYTES as u64 });
    solo.hear(2, matched(2, 6));
    assert_eq!((flow(&solo), solo.entries_sent_to(2)), (FlowStatus::Replicate, vec![vec![7]]));
}

/// Row: abort. A follower that turns out to have what it needs gets entries, whatever is left of the
/// snapshot.
#[test]
fn a_snapshot_is_given_up_when_the_follower_does_without() {
    let mut solo = leader();
    solo.hear(2, rejected(2, 4, position(1, 1)));
    solo.read_piece();
    solo.propose();
    solo.hear(2, piece_response(2, position(2, 6), 100));
    solo.hear(2, matched(2, 4));
    let goes_on = FlowStatus::Snapshot { received: 100, total: BYTES as u64 };
    assert_eq!(flow(&solo), goes_on, "that is not enough: 5 is gone");
    solo.hear(2, matched(2, 5));
    assert_eq!((flow(&solo), solo.entries_sent_to(2)), (FlowStatus::Replicate, vec![vec![6, 7]]));
    solo.pieces.clear();
    solo.sent.clear();
    solo.time_out();
    assert_eq!((solo.pieces.clone(), sent_pieces(&mut solo)), (vec![], vec![]));
}

/// Row: failure. Pieces or answers that were lost go again after an election timeout, from where the
/// follower's bytes end; one that has restarted begins again.
#[test]
fn lost_pieces_go_again() {
    for (answered, goes_on_at) in [(None, 0), (Some(100), 100), (Some(0), 0)] {
        let mut solo = leader();
        solo.hear(2, rejected(2, 4, position(1, 1)));
        while !solo.pieces.is_empty() {
            solo.read_piece();
        }
        if let Some(next) = answered {
            solo.hear(2, piece_response(2, position(2, 6), next));
        }
        assert_eq!(solo.pieces, [], "nothing is known to be lost");
        sent_pieces(&mut solo);
        for _ in 0..11 {
            solo.time_out();
            solo.hear(3, matched(2, 6));
        }
        assert_eq!(solo.pieces.first(), Some(&(2, 6, goes_on_at, 100)), "{answered:?}");
    }
}

/// Row: failure. If the snapshot is gone when its next piece is to be read, a newer one has taken its
/// place: sending begins anew with that.
#[test]
fn a_snapshot_that_is_gone_is_replaced_by_the_newest() {
    let mut solo = leader();
    solo.hear(2, rejected(2, 4, position(1, 1)));
    solo.propose();
    solo.hear(3, matched(2, 7));
    solo.snapshot(BYTES);
    let (follower, index, offset, _) = solo.pieces.remove(0);
    assert_eq!(index, 6);
    let mut out = Vec::new();
    let (node, last) = (NodeId(follower), LogIndex(index));
    solo.raft.on_snapshot_read(node, last, offset, bytes::Bytes::new(), solo.now, &mut out);
    solo.hear(2, matched(2, 1));
    assert_eq!(solo.pieces.first(), Some(&(2, 7, 0, 100)));
}

/// Row: provide. A window bounds the pieces under way.
#[test]
fn pieces_are_sent_ahead_of_the_answers_within_the_window() {
    let mut settings = settings(1, 3, 1);
    settings.limits.inflight_bytes_max = 150;
    let mut solo = Solo::leader(settings, 3);
    for index in 1..=2 {
        solo.hear(3, matched(1, index));
        solo.snapshot(1_000);
        solo.propose();
    }
    solo.sent.clear();
    solo.hear(2, rejected(1, 0, position(0, 0)));
    let sent = |solo: &mut Solo| {
        while !solo.pieces.is_empty() {
            solo.read_piece();
        }
        sent_pieces(solo)
    };
    assert_eq!(sent(&mut solo), [(0, 100), (100, 100)]);
    solo.hear(2, piece_response(1, position(1, 2), 100));
    assert_eq!(sent(&mut solo), [(200, 100)]);
}

/// Row: request by a follower. One that cannot read its own log asks for a snapshot of all that it ever
/// vouched for, and neither leads nor takes entries until it has it.
#[test]
fn a_member_with_a_damaged_log_asks_for_a_snapshot() {
    let mut solo = follower(&[1, 1, 2, 2]);
    solo.raft.request_snapshot();
    let sent = solo.ask(2, append(2, position(2, 4), 4, records(5, &[2])));
    assert_eq!((sent, solo.log().len()), (vec![(2, wants_snapshot(2, 4))], 4));
    for _ in 0..3 {
        solo.wait(300);
        assert_eq!(solo.raft.role(), RoleName::Follower);
    }
    let answer = solo.ask(3, vote_request(3, position(2, 3)));
    assert_eq!(answer, [(3, vote_response(3, false))], "it still vouches for four entries");
    solo.hear(2, piece(3, &snapshot_at(3, 2), 0, 250));
    assert_eq!(solo.installed, [], "too old");
    solo.hear(2, piece(3, &snapshot(), 0, 250));
    assert_eq!((solo.installed.len(), solo.commit()), (1, 4));
}

/// The same on the leader: it has a snapshot made if its own is too old, and sends it though the entries
/// are there.
#[test]
fn a_leader_serves_a_follower_that_asks_for_a_snapshot() {
    let mut solo = Solo::replicating(3, 2, &[1, 1]);
    solo.hear(2, wants_snapshot(2, 3));
    assert_eq!((solo.wanted.clone(), flow(&solo)), (vec![3], FlowStatus::Replicate));
    solo.snapshot(BYTES);
    solo.hear(2, wants_snapshot(2, 3));
    assert!(matches!(flow(&solo), FlowStatus::Snapshot { received: 0, .. }));
    assert_eq!(solo.matched()[0], (2, 0), "what it had, it has no more");
    // Asking once more does not begin anew.
    solo.read_piece();
    solo.hear(2, piece_response(2, position(2, 3), 100));
    solo.hear(2, wants_snapshot(2, 3));
    assert!(matches!(flow(&solo), FlowStatus::Snapshot { received: 100, .. }));
}

/// What a follower matched before its log was damaged, and what of it comes late, counts for nothing.
#[test]
fn a_late_match_from_before_the_damage_counts_for_nothing() {
    let mut solo = Solo::replicating(3, 2, &[1, 1]);
    solo.snapshot(BYTES);
    solo.hear(2, wants_snapshot(2, 3));
    assert_eq!(solo.matched()[0], (2, 0));
    solo.hear(2, matched(2, 3));
    assert_eq!(solo.matched()[0], (2, 0), "said before");
    assert!(matches!(flow(&solo), FlowStatus::Snapshot { .. }));
    solo.hear(2, matched_in_round(2, 3, 1));
    assert_eq!(solo.matched()[0], (2, 3), "said after the snapshot was offered");
    assert_eq!(flow(&solo), FlowStatus::Replicate);
}

/// A follower that comes back answers appends of the term that it missed in the present one. The leader
/// does not take that for a refusal of its own, which would cost a snapshot. (Found by the simulator in
/// madsim, seed 7.)
#[test]
fn a_refusal_of_an_older_terms_append_says_nothing_of_the_log() {
    let mut solo = Solo::replicating(3, 2, &[1, 1]);
    solo.snapshot(BYTES);
    for _ in 0..3 {
        solo.hear(2, stale_term(2));
        assert_eq!(flow(&solo), FlowStatus::Replicate);
    }
}

/// Pieces that arrive after the follower has told that its log reaches the base take nothing back: the
/// leader counts on what it was told. (The same seed.)
#[test]
fn a_snapshot_does_not_take_back_what_was_matched_in_this_term() {
    let mut solo = follower(&[1, 1]);
    let sent = solo.ask(2, append(2, position(1, 2), 2, records(3, &[2])));
    assert_eq!(sent, [(2, matched(2, 3))]);
    solo.hear(2, piece(2, &snapshot_at(4, 2), 0, 250));
    assert_eq!((solo.installed.clone(), solo.log().len()), (vec![], 3), "the base is at 2");
    solo.hear(2, piece(2, &snapshot_at(9, 8), 0, 250));
    assert_eq!(solo.installed.len(), 1, "this one is about entries that it lacks");
}

/// §7 in a group: a member that was away while the log went gets the snapshot, the rest as entries, and
/// takes part.
#[test]
fn a_member_that_was_away_catches_up_by_a_snapshot() {
    for away in [2, 3] {
        let mut group = Group::new(3).with_manual_timers();
        group.elect(1);
        let others: Vec<u64> = (1..=3).filter(|node| *node != away).collect();
        for _ in 0..20 {
            group.propose(1);
            group.settle_among(&others);
        }
        for _ in 0..3 {
            group.time_out(1);
            group.settle_among(&others);
            for node in &others {
                group.snapshot(*node, 1_000);
            }
            group.propose(1);
            group.settle_among(&others);
        }
        assert!(group.member(1).raft.base().index > LogIndex(20));
        // What was sent while it was away is lost, and goes again after an election timeout.
        for _ in 0..15 {
            group.time_out(1);
            group.settle();
        }
        let (base, last) = (group.member(away).raft.base(), group.member(1).raft.last_index());
        assert!(base.index > LogIndex(20));
        assert_eq!(group.member(away).raft.last_index(), last);
        group.elect(away);
        group.propose(away);
        group.settle();
        assert_eq!(group.member(away).raft.commit_index(), group.member(away).raft.last_index());
    }
}

/// Row: snapshot in flight while leadership changes, in a group; the follower crashes besides.
#[test]
fn a_snapshot_arrives_through_changes_of_leadership_and_crashes() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    for _ in 0..20 {
        group.propose(1);
        group.settle_among(&[1, 2]);
    }
    for _ in 0..2 {
        group.propose(1);
        group.settle_among(&[1, 2]);
        group.time_out(1);
        group.settle_among(&[1, 2]);
        group.snapshot(1, 1_000);
        group.snapshot(2, 1_000);
    }
    group.time_out(1);
    // Some pieces arrive, and then 2 leads.
    for _ in 0..8 {
        group.deliver(0);
        for node in 1..=3 {
            group.flush(node, 9);
        }
    }
    assert_eq!(group.member(3).raft.base(), position(0, 0), "not yet whole");
    group.now = group.now + engine::time::Micros::from_millis(150);
    group.crash(1, 9);
    group.crash(3, 9);
    group.network.clear();
    group.elect_among(2, &[1, 2]);
    for _ in 0..30 {
        group.time_out(2);
        group.settle();
    }
    let raft = |group: &Group, node: usize| {
        let raft = &group.members[node - 1].raft;
        (raft.last_index(), raft.commit_index())
    };
    assert_eq!(raft(&group, 3), raft(&group, 2));
}

/// Probing goes no further back than the base: what lies before is committed, and so is equal.
#[test]
fn a_refusal_never_leads_before_the_base() {
    let mut solo = follower(&[]);
    hear_all(&mut solo, &snapshot());
    let sent = solo.ask(2, append(2, position(2, 9), 4, Vec::new()));
    assert_eq!(sent, [(2, rejected(2, 9, position(1, 2)))]);
    // An append from before the base is one from the base.
    let sent = solo.ask(2, append(2, position(0, 0), 4, records(1, &[1, 1, 2])));
    assert_eq!((sent, solo.log()), (vec![(2, matched(2, 3))], vec![2]));
}
