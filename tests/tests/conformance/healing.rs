//! Members whose disks have lost what they vouched for (Alagappan et al., "Protocol-Aware Recovery for
//! Consensus-Based Storage", FAST 2018): they forget no promise, and get everything back.

use engine::ids::{LogIndex, Term};
use engine::raft::{AppendOutcome, LogPosition, RoleName};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tests::group::{Group, settings};
use tests::image::{Image, records};
use tests::messages::{append, lost, outcome_of, position, pre_vote_request, vote_request};
use tests::messages::{matched, rejected, vote_response};
use tests::solo::Solo;

/// A member whose log of four entries has rotted from `first` on.
fn damaged(first: u64) -> Solo {
    let mut image = Image::with_log(3, &[1, 1, 2, 2]);
    image.rot(LogIndex(first));
    Solo::on_disk(settings(1, 3, 1), image)
}

#[test]
fn a_member_whose_disk_lost_entries_judges_candidates_by_the_log_that_it_had() {
    let mut solo = damaged(2);
    for last in [position(1, 1), position(2, 3), position(1, 9)] {
        let answer = solo.ask(2, vote_request(4, last));
        assert_eq!(answer, [(2, vote_response(4, false))], "{last:?} ends before it");
    }
    let answer = solo.ask(2, vote_request(4, position(2, 4)));
    assert_eq!(answer, [(2, vote_response(4, true))]);
}

#[test]
fn a_member_whose_disk_lost_entries_does_not_stand_until_it_has_them_back() {
    let mut solo = damaged(2);
    for _ in 0..3 {
        solo.wait(300);
        assert_eq!(solo.raft.role(), RoleName::Follower);
    }
    solo.hear(2, append(3, position(1, 1), 1, records(2, &[1, 2])));
    assert!(solo.raft.is_healing(), "one is still missing");
    solo.wait(300);
    assert_eq!(solo.raft.role(), RoleName::Follower);
    solo.hear(2, append(3, position(2, 3), 3, records(4, &[2])));
    assert!(!solo.raft.is_healing());
    solo.wait(300);
    assert_eq!(solo.raft.role(), RoleName::PreCandidate);
}

#[test]
fn a_tail_that_was_never_committed_is_forgotten_with_the_first_entry_of_a_later_term() {
    let mut solo = damaged(3);
    solo.hear(2, append(4, position(1, 2), 2, records(3, &[4])));
    assert!(!solo.raft.is_healing(), "an entry of term 4 ends later than any of term 2");
    assert_eq!(solo.raft.vouched(), LogPosition::default());
}

#[test]
fn a_crash_in_the_middle_of_the_healing_forgets_nothing() {
    let mut solo = damaged(2);
    solo.hear(2, append(3, position(1, 1), 1, records(2, &[1])));
    let again = Solo::on_disk(settings(1, 3, 1), solo.image);
    assert_eq!(again.raft.last_index(), LogIndex(2));
    assert_eq!(again.raft.vouched(), position(2, 4));
}

#[test]
fn a_damaged_member_says_that_it_has_lost_what_it_matched() {
    let mut solo = damaged(2);
    let sent = solo.ask(2, append(3, position(2, 4), 4, Vec::new()));
    let outcome = AppendOutcome::Lost { previous_index: LogIndex(4), hint: position(1, 1) };
    assert_eq!(outcome_of(&sent[0].1), Some(outcome));
}

#[test]
fn a_leader_sends_again_what_a_follower_had_matched_in_its_term_and_lost() {
    let mut solo = Solo::replicating(3, 2, &[1, 1]);
    let commit = solo.commit();
    assert_eq!(commit, 3);
    solo.hear(2, lost(2, 3, position(1, 1)));
    assert_eq!(solo.matched()[0], (2, 1), "it has the first entry only");
    assert_eq!(solo.commit(), commit, "what is committed stays so");
    solo.hear(2, matched(2, 3));
    assert_eq!(solo.matched()[0], (2, 1), "an answer from before its disk was damaged");
}

#[test]
fn an_idle_group_heals_a_member_by_heartbeats_alone() {
    let mut group = Group::new(3);
    group.elect(1);
    for _ in 0..4 {
        group.propose(1);
    }
    group.settle();
    let whole = group.log(1);
    assert_eq!(group.log(2), whole);
    for first in 1..=whole.len() as u64 {
        group.rot(2, first);
        assert!(group.member(2).raft.is_healing());
        group.run_among(&[1, 2, 3], 60);
        assert_eq!((group.leader(), group.log(2)), (Some(1), whole.clone()), "from {first} on");
        assert!(!group.member(2).raft.is_healing());
    }
}

/// Entries that one damaged member and a leader that is gone have committed are lost if the damaged
/// member forgets that it vouched for them.
#[test]
fn what_was_committed_by_the_word_of_a_damaged_member_is_not_lost_with_the_leader() {
    let mut group = Group::new(3);
    group.elect(1);
    group.drop_packets_of(3);
    for _ in 0..3 {
        group.propose(1);
        group.settle_among(&[1, 2]);
    }
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(4));
    group.rot(2, 2);
    group.kill(1, 0);
    group.run_among(&[2, 3], 2_000);
    assert_eq!(group.leader(), None, "neither may lead without what was committed");
    group.restart(1);
    group.run_among(&[1, 2, 3], 2_000);
    let leader = group.leader().expect("all three are up");
    assert_eq!(group.log(leader)[..4], [1, 1, 1, 1]);
}

/// A random past of three members.
fn history(seed: u64) -> Group {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut group = Group::new(3);
    for _ in 0..rng.random_range(20..160) {
        step(&mut group, &mut rng);
    }
    group
}

fn step(group: &mut Group, rng: &mut Xoshiro256PlusPlus) {
    let node = rng.random_range(1..=3);
    match rng.random_range(0..20) {
        0 => group.time_out(node),
        1..=3 => {
            if let Some(leader) = group.leader() {
                group.propose(leader);
            }
        }
        4..=8 => group.flush(node, 1),
        9 => group.drop_packets_of(node),
        10 => group.crash(node, 1),
        _ if group.network.is_empty() => group.turn(node),
        _ => group.deliver(rng.random_range(0..group.network.len())),
    }
}

/// Whatever the past, whoever is damaged, wherever, and whatever happens next: the group checks after
/// every step that nothing committed is lost, and it becomes live again once all three are up.
#[test]
fn damage_anywhere_on_one_member_loses_nothing_committed_and_heals() {
    let mut healed = 0;
    for seed in 0..400 {
        let lasts: Vec<u64> =
            history(seed).members.iter().map(|member| member.image.last_index().0).collect();
        for (node, last) in (1..).zip(lasts) {
            for first in 1..=last {
                let mut group = history(seed);
                group.rot(node, first);
                healed += u64::from(group.member(node).raft.is_healing());
                let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed << 16 | node << 8 | first);
                for _ in 0..rng.random_range(0..60) {
                    step(&mut group, &mut rng);
                }
                group.run_among(&[1, 2, 3], 3_000);
                let case = format!("seed {seed}, member {node} from entry {first} on");
                let leader = group.leader().unwrap_or_else(|| panic!("no leader: {case}"));
                group.propose(leader);
                group.run_among(&[1, 2, 3], 500);
                let leader = group.leader().unwrap_or_else(|| panic!("no leader: {case}"));
                assert_eq!(group.log(node), group.log(leader), "{case}");
                assert!(!group.member(node).raft.is_healing(), "{case}");
            }
        }
    }
    assert!(healed > 300, "{healed} cases are too few to mean anything");
}

#[test]
fn a_damaged_member_promises_no_vote_to_one_that_lacks_what_it_lost() {
    let mut solo = damaged(1);
    let sent = solo.ask(2, pre_vote_request(5, position(1, 2)));
    assert_eq!(sent[0].1.term, Term(3), "refused, in its own term");
}

/// A member of a running group whose disk is what it was `entries` entries ago.
fn group_with_older_copy(entries: usize) -> Group {
    let mut group = Group::new(3);
    group.elect(1);
    group.propose(1);
    group.settle();
    let older = group.member(2).image.clone();
    for _ in 0..entries {
        group.propose(1);
    }
    group.settle();
    group.kill(2, usize::MAX);
    group.member(2).image = older;
    group.restart(2);
    group
}

/// SCENARIOS 26: a directory that was put back from a copy has forgotten what it vouched for.
#[test]
fn a_member_on_an_older_copy_of_its_directory_is_told_so_by_the_leader_that_counted_on_it() {
    let mut group = group_with_older_copy(3);
    let last = group.member(1).raft.last_index();
    group.run_among(&[1, 2, 3], 300);
    assert_eq!(group.member(2).older_than.map(|matched| matched.index), Some(last));
    assert_eq!(group.member(3).older_than, None);
}

#[test]
fn a_restart_a_late_answer_or_known_damage_is_not_taken_for_an_older_copy() {
    let mut group = group_with_older_copy(0);
    group.run_among(&[1, 2, 3], 100);
    // Refusals from before the follower had the entries, which arrive after.
    for _ in 0..3 {
        group.say(2, 1, rejected(1, 1, position(0, 0)));
        group.run_among(&[1, 2, 3], 30);
    }
    group.propose(1);
    group.settle();
    group.kill(2, usize::MAX);
    let last = group.member(2).image.last_index();
    group.member(2).image.rot(last);
    group.restart(2);
    group.run_among(&[1, 2, 3], 200);
    assert!(group.members.iter().all(|member| member.older_than.is_none()));
    assert_eq!(group.log(2), group.log(1));
}
