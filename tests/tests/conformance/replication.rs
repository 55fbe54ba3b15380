//! Log replication (§5.3).

use engine::ids::{LogIndex, NodeId};
use engine::raft::{Body, Message, RoleName};
use proptest::prelude::*;
use tests::group::{Group, settings};
use tests::image::{Image, record, records};
use tests::messages::{append, append_of, matched, outcome_of, position, rejected};
use tests::solo::Solo;

/// §5.3: "the leader appends the command to its log as a new entry, then issues AppendEntries RPCs in
/// parallel to each of the other servers".
#[test]
fn a_new_entry_goes_out_to_every_follower_at_once() {
    let mut solo = Solo::replicating(5, 1, &[]);
    solo.propose();
    for (to, (_, message)) in (2..=5).zip(&solo.sent) {
        assert_eq!(append_of(message), Some((position(1, 1), 1, vec![2])), "to {to}");
    }
    assert_eq!(solo.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3, 4, 5]);
}

/// §5.3: an entry is committed "once the leader that created the entry has replicated it on a majority
/// of the servers"; the leader is one of them (row: acknowledges commits).
#[test]
fn an_entry_is_committed_once_a_majority_has_it() {
    for (members, has_it, is_committed) in [
        (1, 0, true),
        (2, 0, false),
        (2, 1, true),
        (3, 0, false),
        (3, 1, true),
        (5, 1, false),
        (5, 2, true),
        (7, 2, false),
        (7, 3, true),
        (7, 6, true),
    ] {
        let mut solo = Solo::replicating(members, 1, &[]);
        solo.propose();
        for follower in 2..2 + has_it {
            // An answer that comes twice counts once.
            solo.hear(follower, matched(1, 2));
            solo.hear(follower, matched(1, 2));
        }
        assert_eq!(solo.commit(), 1 + u64::from(is_committed), "{has_it} of {members}");
    }
}

/// §5.3: this "also commits all preceding entries in the leader's log, including entries created by
/// previous leaders".
#[test]
fn a_commit_commits_everything_before_it() {
    for log in [&[][..], &[2], &[1, 2], &[1, 1, 1, 1]] {
        let mut solo = Solo::in_role(RoleName::Leader, 3, 3, log);
        assert_eq!(solo.commit(), 0);
        solo.hear(2, matched(3, log.len() as u64 + 1));
        assert_eq!(solo.commit(), log.len() as u64 + 1, "{log:?}");
    }
}

/// §5.3: "once a follower learns that a log entry is committed, it applies the entry": up to what the
/// leader has committed, and to what this append has shown to be equal (Figure 2).
#[test]
fn a_follower_commits_what_the_leader_has_and_the_append_validates() {
    for (entries, commit, expected) in [
        (&[1][..], 1, 1),
        (&[1, 1], 2, 2),
        (&[1, 1], 1, 1),
        (&[1, 1], 0, 0),
        (&[1, 1], 9, 2),
        (&[], 1, 0),
    ] {
        let mut solo = Solo::new(3);
        solo.hear(2, append(1, position(0, 0), commit, records(1, entries)));
        assert_eq!(solo.commit(), expected, "{entries:?}, {commit}");
        // It never takes a commit back.
        solo.hear(2, append(1, position(0, 0), 0, Vec::new()));
        assert_eq!(solo.commit(), expected);
    }
    // Nor does what lies after the validated part count, though the follower has it.
    let mut solo = Solo::with_log(3, 1, &[1, 1, 1]);
    solo.hear(2, append(2, position(1, 1), 3, Vec::new()));
    assert_eq!(solo.commit(), 1);
    solo.hear(2, append(2, position(1, 2), 3, records(3, &[2])));
    assert_eq!((solo.commit(), solo.log()), (3, vec![1, 1, 2]));
}

/// §5.3: "if the follower does not find an entry in its log with the same index and term, then it
/// refuses the new entries" (row: the append check). The refusal says up to where the logs may agree.
#[test]
fn entries_are_taken_only_after_an_equal_entry() {
    for (previous, answer) in [
        (position(0, 0), matched(2, 1)),
        (position(1, 1), matched(2, 2)),
        (position(2, 2), matched(2, 3)),
        (position(1, 2), rejected(2, 2, position(1, 1))),
        (position(2, 3), rejected(2, 3, position(2, 2))),
        (position(1, 3), rejected(2, 3, position(1, 1))),
        (position(2, 1), rejected(2, 1, position(1, 1))),
        (position(0, 9), rejected(2, 9, position(0, 0))),
    ] {
        let mut solo = Solo::with_log(3, 2, &[1, 2]);
        let entries = records(previous.index.0 + 1, &[2]);
        let is_taken =
            matches!(outcome_of(&answer), Some(engine::raft::AppendOutcome::Matched { .. }));
        assert_eq!(solo.ask(3, append(2, previous, 0, entries)), [(3, answer)], "{previous:?}");
        assert!(is_taken || solo.log() == [1, 2]);
    }
}

/// Figure 2, AppendEntries 3 and 4: a conflicting entry goes with all that follow it; entries that are
/// there already stay, and so do those after them, since the append may be an old one.
#[test]
fn only_entries_that_conflict_are_replaced() {
    let cases: [(_, &[u64], &[u64], &[u64]); 7] = [
        (position(2, 2), &[3], &[1, 2, 3], &[]),
        (position(1, 1), &[3, 4], &[1, 3, 4], &[2]),
        (position(0, 0), &[1], &[1, 2], &[]),
        (position(0, 0), &[3], &[3], &[1]),
        (position(0, 0), &[1, 2], &[1, 2], &[]),
        (position(0, 0), &[1, 2, 3], &[1, 2, 3], &[]),
        (position(0, 0), &[1, 3], &[1, 3], &[2]),
    ];
    for (previous, entries, expected, cut_at) in cases {
        let mut solo = Solo::with_log(3, 2, &[1, 2]);
        let first = previous.index.0 + 1;
        solo.hear(2, append(4, previous, 0, records(first, entries)));
        assert_eq!(solo.log(), expected, "{previous:?}, {entries:?}");
        assert_eq!(solo.truncations, cut_at);
        let on_disk: Vec<u64> = solo.image.log.iter().map(|record| record.term().0).collect();
        assert_eq!(on_disk, expected, "on the disk too");
    }
}

/// Figure 7: what a follower may hold when the leader of term 8 comes to power.
const FIGURE_7: [&[u64]; 6] = [
    &[1, 1, 1, 4, 4, 5, 5, 6, 6],
    &[1, 1, 1, 4],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    &[1, 1, 1, 4, 4, 4, 4],
    &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
];
const FIGURE_7_LEADER: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];

/// Delivers what the two say to one another until both are silent. Returns how often the follower
/// refused, and how many appends with entries it took.
fn exchange(leader: &mut Solo, follower: &mut Solo) -> (usize, usize) {
    let (mut refusals, mut appends) = (0, 0);
    let id = follower.raft.node().0;
    loop {
        for (to, message) in leader.take_sent() {
            if to == id {
                appends += usize::from(append_of(&message).is_some_and(|(_, _, e)| !e.is_empty()));
                follower.hear(1, message);
            }
        }
        // What the leader no longer has in memory it reads back.
        for (to, first) in std::mem::take(&mut leader.fetches) {
            if to == id {
                let read = leader.image.log[first as usize - 1..].iter().take(3).cloned();
                leader.fetched(to, read.collect());
            }
        }
        let answers = follower.take_sent();
        if answers.is_empty() && leader.sent.is_empty() {
            return (refusals, appends);
        }
        for (to, message) in answers {
            assert_eq!(to, 1);
            let outcome = outcome_of(&message);
            refusals +=
                usize::from(matches!(outcome, Some(engine::raft::AppendOutcome::Rejected { .. })));
            leader.hear(id, message);
        }
    }
}

fn follower_with(log: &[u64], term: u64) -> Solo {
    Solo::on_disk(settings(2, 3, 2), Image::with_log(term, log))
}

/// Figure 7, (a) to (f), as the new leader meets them: probing finds the last entry in common with at
/// most one refusal each, and the follower's log becomes the leader's.
#[test]
fn every_follower_of_figure_7_is_brought_to_the_leaders_log_by_probing() {
    for (name, log) in ('a'..).zip(FIGURE_7) {
        let mut leader = Solo::in_role(RoleName::Leader, 3, 8, FIGURE_7_LEADER);
        let mut follower = follower_with(log, 7);
        leader.time_out();
        let (refusals, _) = exchange(&mut leader, &mut follower);
        assert_eq!(follower.log(), leader.log(), "({name})");
        assert_eq!(follower.log(), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]);
        // (c) and (d) have the leader's last entry of old; what they have beyond it is replaced.
        let expected = if matches!(name, 'c' | 'd') { 0 } else { 1 };
        assert_eq!(refusals, expected, "({name})");
        assert_eq!(leader.commit(), 11, "the two are a majority of three");
        leader.time_out();
        exchange(&mut leader, &mut follower);
        assert_eq!(follower.commit(), 11);
    }
}

/// Figure 7, (a) to (f), replicating: the leader knows that the first three entries are equal and sends
/// what follows without asking; each follower keeps what is equal and replaces the rest.
#[test]
fn every_follower_of_figure_7_is_brought_to_the_leaders_log_by_replicating() {
    for (name, log) in ('a'..).zip(FIGURE_7) {
        let mut leader = Solo::in_role(RoleName::Leader, 3, 8, FIGURE_7_LEADER);
        let mut follower = follower_with(log, 7);
        leader.hear(2, matched(8, 3));
        let (refusals, appends) = exchange(&mut leader, &mut follower);
        assert_eq!((refusals, appends > 0), (0, true), "({name})");
        assert_eq!(follower.log(), leader.log(), "({name})");
        assert_eq!(leader.commit(), 11);
        // Nothing that was equal was rewritten.
        let equal = log.iter().zip(leader.log()).take_while(|(a, b)| **a == *b).count() as u64;
        let cut_at = (equal < log.len() as u64).then_some(equal + 1);
        assert_eq!(follower.truncations, Vec::from_iter(cut_at), "({name})");
    }
}

/// Figure 7 as one cluster of seven: the leader of term 8 is elected by (a), (b), (e) and (f), while
/// (c) and (d) refuse, and brings all of them to its log.
#[test]
fn the_whole_of_figure_7_elects_the_leader_and_converges() {
    let logs = std::iter::once(FIGURE_7_LEADER).chain(FIGURE_7);
    let disks = logs.map(|log| Image::with_log(7, log)).collect();
    let mut group = Group::on_disks(disks).with_manual_timers();
    group.elect(1);
    let voted: Vec<u64> =
        (1..=7).filter(|node| group.member(*node).raft.voted_for() == Some(NodeId(1))).collect();
    assert_eq!(voted, [1, 2, 3, 6, 7]);
    group.time_out(1);
    group.settle();
    for node in 1..=7 {
        assert_eq!(group.log(node), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8], "member {node}");
        assert_eq!(group.member(node).raft.commit_index(), LogIndex(11));
    }
}

/// All logs of up to `len` entries with terms from 1 to `terms`, rising.
fn logs(len: usize, terms: u64) -> Vec<Vec<u64>> {
    let mut all = vec![vec![]];
    let mut longest = all.clone();
    for _ in 0..len {
        let extended = longest.iter().flat_map(|log: &Vec<u64>| {
            let lowest = log.last().copied().unwrap_or(1);
            (lowest..=terms).map(move |term| [&log[..], &[term]].concat())
        });
        longest = extended.collect();
        all.extend(longest.iter().cloned());
    }
    all
}

/// §5.3, its last paragraphs: "the leader can decrement nextIndex to bypass all of the conflicting
/// entries in that term; one AppendEntries RPC will be required for each term with conflicting
/// entries, rather than one RPC per entry". For all pairs of small logs that can be.
#[test]
fn a_refusal_bypasses_a_whole_term_at_once() {
    let all = logs(5, 3);
    let mut pairs = 0;
    for ours in &all {
        for theirs in &all {
            // Log Matching (Figure 3): what is equal at an index is equal before it.
            let equal = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            let rest = ours.iter().zip(theirs).skip(equal);
            if rest.clone().any(|(a, b)| a == b) {
                continue;
            }
            pairs += 1;
            let mut leader = Solo::in_role(RoleName::Leader, 3, 4, ours);
            let mut follower = follower_with(theirs, 3);
            leader.time_out();
            let (refusals, _) = exchange(&mut leader, &mut follower);
            // One for each of the follower's terms that conflict, and one for the end of its log.
            let mut conflicting: Vec<u64> = theirs[equal..].to_vec();
            conflicting.dedup();
            let refusals_max = conflicting.len() + 1;
            assert!(refusals <= refusals_max, "{ours:?} {theirs:?}: {refusals} refusals");
            assert_eq!(follower.log(), leader.log(), "{ours:?} {theirs:?}");
        }
    }
    assert!(pairs > 1_000);
}

/// §5.3: long runs of one term cost one refusal, not one for each entry.
#[test]
fn the_length_of_a_conflict_does_not_matter() {
    let ours = [&[1; 3][..], &[4; 500]].concat();
    let theirs = [&[1; 3][..], &[2; 300], &[3; 300]].concat();
    let mut leader = Solo::in_role(RoleName::Leader, 3, 8, &ours);
    let mut follower = follower_with(&theirs, 7);
    leader.time_out();
    let (refusals, _) = exchange(&mut leader, &mut follower);
    assert_eq!((refusals, follower.log()), (1, leader.log()));
}

/// §5.3: a refusal of something that was sent long ago says nothing of what was found out since.
#[test]
fn a_stale_refusal_is_ignored() {
    let mut solo = Solo::replicating(3, 2, &[1, 1, 1]);
    solo.propose();
    solo.sent.clear();
    // The follower is known to have these entries; when it lacked them is over.
    for previous in 0..=4 {
        assert_eq!(solo.ask(2, rejected(2, previous, position(1, 1))), [], "{previous}");
    }
    // Nor can it have refused what was not sent.
    assert_eq!(solo.ask(2, rejected(2, 99, position(1, 1))), []);
    solo.propose();
    assert_eq!(solo.entries_sent_to(2), [[6]], "it is still replicating");
    // While probing, only the refusal of the very last probe counts.
    let mut solo = Solo::in_role(RoleName::Leader, 3, 2, &[1, 1, 1]);
    assert_eq!(solo.ask(2, rejected(2, 2, position(1, 1))), []);
    let probe = solo.ask(2, rejected(2, 3, position(1, 1)));
    assert_eq!(append_of(&probe[0].1), Some((position(1, 1), 0, vec![])));
    assert_eq!(solo.ask(2, rejected(2, 3, position(1, 1))), [], "the same once more");
}

/// Row: pause and resume. A follower whose log is not known is asked once at a time; entries wait until
/// it has answered, and then all go out.
#[test]
fn replication_pauses_while_probing_and_resumes_with_the_answer() {
    let mut solo = Solo::in_role(RoleName::Leader, 3, 2, &[1]);
    solo.propose();
    solo.propose();
    assert_eq!(solo.entries_sent_to(2), [[0; 0]; 0]);
    solo.hear(2, matched(2, 1));
    assert_eq!(solo.entries_sent_to(2), [[2, 3, 4]]);
    assert_eq!(solo.entries_sent_to(3), [[0; 0]; 0], "3 has not answered");
}

/// §5.3 and §5.5: messages may overtake one another. Appends that arrive in any order, and twice, end
/// in the leader's log.
#[test]
fn appends_in_any_order_end_in_the_leaders_log() {
    let orders = [0, 1, 2, 3].map(|first| [0, 1, 2, 3].map(|at| (at + first) % 4));
    let orders = orders.into_iter().chain([[3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 3, 1], [3, 1, 2, 0]]);
    for order in orders {
        for is_doubled in [false, true] {
            let mut leader = Solo::replicating(3, 2, &[1]);
            let mut follower = follower_with(&[1, 2], 2);
            for _ in 0..4 {
                leader.propose();
            }
            let sent: Vec<Message> =
                leader.take_sent().into_iter().filter(|(to, _)| *to == 2).map(|s| s.1).collect();
            assert_eq!(sent.len(), 4);
            for at in order {
                for _ in 0..=usize::from(is_doubled) {
                    follower.hear(1, sent[at].clone());
                }
            }
            for (_, answer) in follower.take_sent().into_iter().rev() {
                leader.hear(2, answer);
            }
            // What was refused for coming too early, and forgotten since, shows at the heartbeat.
            leader.time_out();
            exchange(&mut leader, &mut follower);
            assert_eq!(follower.log(), [1, 2, 2, 2, 2, 2], "{order:?}");
            assert_eq!(leader.commit(), 6);
        }
    }
}

/// Row: reordered messages. An answer that was overtaken takes nothing back.
#[test]
fn an_old_acknowledgement_takes_nothing_back() {
    let mut solo = Solo::replicating(3, 2, &[1]);
    solo.propose();
    solo.propose();
    solo.hear(2, matched(2, 4));
    solo.hear(2, matched(2, 2));
    assert_eq!(solo.matched(), [(2, 4), (3, 2)]);
    assert_eq!(solo.commit(), 4);
    solo.sent.clear();
    solo.propose();
    assert_eq!(solo.entries_sent_to(2), [[5]]);
}

/// Row: old messages. An append of a deposed leader changes nothing, whatever it holds.
#[test]
fn an_append_of_a_deposed_leader_changes_nothing() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.elect(2);
    group.elect(1);
    group.propose(1);
    group.settle();
    let logs = [1, 2, 3].map(|node| group.log(node));
    let old = append(2, position(1, 1), 3, records(2, &[2, 2]));
    for node in [1, 3] {
        group.say(2, node, old.clone());
    }
    group.settle();
    assert_eq!([1, 2, 3].map(|node| group.log(node)), logs);
    assert_eq!((group.leader(), group.terms()), (Some(1), vec![3, 3, 3]));
}

/// Row: a heartbeat response recovers from probing. A probe or its answer may be lost; every heartbeat
/// asks again, and its answer starts the flow of entries.
#[test]
fn a_lost_probe_is_made_good_by_the_next_heartbeat() {
    let mut solo = Solo::in_role(RoleName::Leader, 3, 2, &[1]);
    for _ in 0..3 {
        solo.time_out();
        let probe = append_of(&solo.sent[0].1);
        assert_eq!(probe, Some((position(1, 1), 0, vec![])), "the same question");
        solo.sent.clear();
    }
    solo.hear(2, matched(2, 1));
    assert_eq!(solo.entries_sent_to(2), [[2]]);
}

/// Row: reordered and lost messages. A lost append shows in the refusal of the next heartbeat, and is
/// sent again.
#[test]
fn a_lost_append_is_found_by_the_next_heartbeat() {
    let mut leader = Solo::replicating(3, 2, &[1]);
    let mut follower = follower_with(&[1, 2], 2);
    leader.propose();
    leader.propose();
    leader.sent.clear();
    leader.time_out();
    let (refusals, _) = exchange(&mut leader, &mut follower);
    assert_eq!((refusals, follower.log()), (1, vec![1, 2, 2, 2]));
}

/// Row: lagging commit is announced. A follower that has every entry and missed that they were
/// committed learns it by a heartbeat.
#[test]
fn a_commit_is_announced_though_no_entry_follows() {
    let mut leader = Solo::replicating(3, 1, &[]);
    let mut follower = follower_with(&[1], 1);
    leader.propose();
    exchange(&mut leader, &mut follower);
    assert_eq!((leader.commit(), follower.commit()), (2, 1));
    leader.time_out();
    exchange(&mut leader, &mut follower);
    assert_eq!(follower.commit(), 2);
}

/// Row: slow follower. Entries that have left the leader's memory are read from its disk, once, and
/// go out like all others; a read that failed is tried again.
#[test]
fn entries_that_left_the_memory_are_read_back_for_a_slow_follower() {
    let mut solo = Solo::in_role(RoleName::Leader, 3, 2, &[1, 1, 1, 1]);
    assert!(solo.raft.cached(LogIndex(4)).is_none(), "it was started with these entries");
    solo.hear(2, matched(2, 1));
    assert_eq!(std::mem::take(&mut solo.fetches), [(2, 2)]);
    solo.hear(2, matched(2, 1));
    solo.propose();
    assert_eq!(solo.fetches, [], "one at a time");
    solo.fetched(2, Vec::new());
    solo.hear(2, matched(2, 1));
    assert_eq!(std::mem::take(&mut solo.fetches), [(2, 2)], "again after a failure");
    solo.sent.clear();
    solo.fetched(2, records(2, &[1, 1]));
    assert_eq!(solo.entries_sent_to(2), [[2, 3]]);
    solo.hear(2, matched(2, 3));
    assert_eq!(std::mem::take(&mut solo.fetches), [(2, 4)]);
    // What is in memory needs no disk.
    solo.fetched(2, records(4, &[1]));
    solo.hear(2, matched(2, 4));
    assert_eq!((solo.entries_sent_to(2).concat(), solo.fetches), (vec![2, 3, 4, 5, 6], vec![]));
}

/// Row: stale self-ack after a term change. What a deposed leader's disk reports late never counts for
/// what it appends when it leads again.
#[test]
fn a_late_flush_of_an_earlier_term_does_not_acknowledge_a_new_entry() {
    let mut solo = Solo::replicating(3, 2, &[1]);
    solo.is_disk_slow = true;
    solo.propose();
    solo.propose();
    // Deposed: the leader of term 3 has other entries in their place.
    solo.hear(3, append(3, position(2, 2), 2, records(3, &[3])));
    assert_eq!(solo.log(), [1, 2, 3]);
    let old = solo.unsynced.len();
    solo.campaign(3);
    // The first flush is of the two entries of term 2, which are gone.
    solo.flush(1);
    assert_eq!((solo.raft.durable_index(), solo.commit()), (LogIndex(2), 2));
    solo.flush(old);
    solo.hear(2, tests::messages::vote_response(4, true));
    assert!(solo.raft.is_leader());
    assert_eq!((solo.raft.durable_index(), solo.log()), (LogIndex(3), vec![1, 2, 3, 4]));
    // Its own entry of term 4 is not durable: with one follower there is no majority.
    solo.hear(2, matched(4, 4));
    assert_eq!(solo.commit(), 2);
    solo.flush(9);
    assert_eq!(solo.commit(), 4);
}

/// §5.3: "the leader never overwrites or deletes entries in its own log" (Leader Append-Only, Figure
/// 3), and an append of its own term from elsewhere cannot be.
#[test]
fn a_leader_takes_no_entries_in_its_own_term() {
    let mut solo = Solo::replicating(3, 2, &[1]);
    assert_eq!(solo.ask(2, append(2, position(1, 1), 9, records(2, &[1, 1, 1]))), []);
    assert_eq!((solo.log(), solo.commit(), solo.raft.is_leader()), (vec![1, 2], 2, true));
}

/// No section: an acknowledgement of more than there is can only be damage.
#[test]
fn an_acknowledgement_of_what_does_not_exist_is_ignored() {
    let mut solo = Solo::replicating(3, 2, &[1]);
    solo.propose();
    solo.hear(2, matched(2, 99));
    assert_eq!(solo.commit(), 2);
    assert_eq!(solo.matched()[0], (2, 2));
}

/// No section: entries that do not follow one another, or whose terms fall or exceed their leader's,
/// are not taken.
#[test]
fn entries_that_no_leader_could_send_are_not_taken() {
    let gap = vec![record(1, 1), record(3, 1)];
    let falling = records(1, &[2, 1]);
    let beyond = records(1, &[9]);
    let misplaced = records(2, &[1]);
    for entries in [gap, falling, beyond, misplaced] {
        let mut solo = Solo::new(3);
        assert_eq!(solo.ask(2, append(2, position(0, 0), 0, entries.clone())), [], "{entries:?}");
        assert_eq!(solo.log(), [0; 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// §5.3, Log Matching (Figure 3): whatever part of the leader's log arrives in whatever order, the
    /// follower's log is the leader's as far as it was validated.
    #[test]
    fn any_appends_of_one_leader_in_any_order_keep_the_logs_matching(
        ours in prop::collection::vec(1..4_u64, 1..8),
        theirs in prop::collection::vec(1..4_u64, 0..8),
        parts in prop::collection::vec((0..8_usize, 0..8_usize), 1..20),
    ) {
        let (mut ours, mut theirs) = (ours, theirs);
        ours.sort_unstable();
        theirs.sort_unstable();
        let equal = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        // Log Matching holds to begin with.
        let clash = ours.iter().zip(&theirs).skip(equal).position(|(a, b)| a == b);
        theirs.truncate(clash.map_or(theirs.len(), |at| equal + at));
        let mut follower = follower_with(&theirs, 3);
        for (from, count) in parts {
            let from = from.min(ours.len());
            let end = (from + count).min(ours.len());
            let previous = position(if from == 0 { 0 } else { ours[from - 1] }, from as u64);
            let entries = records(from as u64 + 1, &ours[from..end]);
            for (_, answer) in follower.ask(1, append(4, previous, 0, entries)) {
                if let Body::AppendResponse {
                    outcome: engine::raft::AppendOutcome::Matched { match_index }, ..
                } = answer.body
                {
                    let until = match_index.0 as usize;
                    prop_assert_eq!(&follower.log()[..until], &ours[..until]);
                }
            }
        }
    }
}
