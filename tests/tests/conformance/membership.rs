//! Changes of the membership: joint consensus (§6, thesis §4.3), learners (thesis §4.2.1), removal
//! (thesis §4.2.2, §4.2.3). A membership counts from its entry on, committed or not.

use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId};
use engine::raft::{
    Body, Change, ChangeError, ChangeRequest, Leave, Membership, RoleName, Settings, Standing, Step,
};
use tests::group::{Group, settings};
use tests::image::{membership_record, records};
use tests::messages::{
    STANDING, append, matched, matched_by, position, pre_vote_request, pre_vote_response, removed,
    vote_request, vote_response,
};
use tests::solo::Solo;

fn request(steps: Vec<Step>, leave: Leave) -> ChangeRequest {
    ChangeRequest::Change(Change { steps, leave })
}

fn automatic(steps: Vec<Step>) -> ChangeRequest {
    request(steps, Leave::Automatic)
}

fn explicit(steps: Vec<Step>) -> ChangeRequest {
    request(steps, Leave::Explicit)
}

fn add(address: &str) -> Step {
    Step::Add { address: address.into(), claim: None, is_joining: false }
}

fn add_joining(address: &str) -> Step {
    Step::Add { address: address.into(), claim: None, is_joining: true }
}

fn remove(node: u64) -> Step {
    Step::Remove(NodeId(node))
}

fn demote(node: u64) -> Step {
    Step::Demote(NodeId(node))
}

fn promote(node: u64) -> Step {
    Step::Promote(NodeId(node))
}

fn nodes(list: &[NodeId]) -> Vec<u64> {
    list.iter().map(|node| node.0).collect()
}

/// Voters, outgoing voters and learners of the newest membership.
fn parts(membership: &Membership) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    let learners: Vec<NodeId> = membership.learners().collect();
    (nodes(membership.incoming()), nodes(membership.outgoing()), nodes(&learners))
}

/// Every follower has the leader's whole log, and the leader's loop turns.
fn all_match(solo: &mut Solo, followers: &[u64]) {
    for _ in 0..2 {
        let (term, last) = (solo.raft.term().0, solo.raft.last_index().0);
        for follower in followers {
            solo.hear(*follower, matched(term, last));
        }
        solo.wait(0);
    }
}

/// A leader of four members of which 4 is a learner that keeps up.
fn with_learner() -> Solo {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.change(&automatic(vec![add("four")])).expect("legal");
    all_match(&mut solo, &[2, 3, 4]);
    solo
}

/// Row: add. A new node gets the next id and is a learner: one plain entry, which counts from its place in
/// the log on, and needs the voters alone.
#[test]
fn a_node_is_added_as_a_learner_by_one_plain_entry() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.change(&automatic(vec![add("four")])).expect("legal");
    let (index, membership) = (solo.raft.membership_index(), solo.raft.membership().clone());
    assert_eq!((index, parts(&membership)), (LogIndex(2), (vec![1, 2, 3], vec![], vec![4])));
    assert_eq!(solo.commit(), 1);
    solo.hear(4, matched(1, 2));
    assert_eq!(solo.commit(), 1, "a learner does not count");
    solo.hear(2, matched(1, 2));
    assert_eq!(solo.commit(), 2);
    assert!(solo.matched().contains(&(4, 2)), "and gets the log");
}

/// Row: promote. Only a learner that keeps up becomes a voter, by way of a joint membership.
#[test]
fn a_learner_is_promoted_once_it_keeps_up() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.change(&automatic(vec![add("four")])).expect("legal");
    all_match(&mut solo, &[2, 3]);
    let error = ChangeError::NotCaughtUp { node: NodeId(4), matched: 0, last: 2 };
    assert_eq!(solo.change(&automatic(vec![promote(4)])), Err(error));
    all_match(&mut solo, &[2, 3, 4]);
    solo.change(&automatic(vec![promote(4)])).expect("it has caught up");
    let joint = (vec![1, 2, 3, 4], vec![1, 2, 3], vec![]);
    assert_eq!(parts(solo.raft.membership()), joint);
    all_match(&mut solo, &[2, 3, 4]);
    all_match(&mut solo, &[2, 3, 4]);
    assert_eq!(parts(solo.raft.membership()), (vec![1, 2, 3, 4], vec![], vec![]));
}

/// Thesis §4.2.1: a learner that falls behind again is not promoted.
#[test]
fn a_learner_that_no_longer_answers_is_not_promoted() {
    let mut solo = with_learner();
    for _ in 0..15 {
        solo.wait(10);
        for follower in [2, 3] {
            solo.hear(follower, matched(1, 2));
        }
    }
    let outcome = solo.change(&automatic(vec![promote(4)]));
    assert!(matches!(outcome, Err(ChangeError::NotCaughtUp { .. })), "{outcome:?}");
}

/// A learner that keeps up with the log, and lacks records from before it, would be a voter with holes.
#[test]
fn a_learner_that_lacks_records_is_not_promoted() {
    for is_complete in [false, true] {
        let mut solo = with_learner();
        let standing = Standing { is_complete, ..STANDING };
        for _ in 0..3 {
            all_match(&mut solo, &[2, 3]);
            let last = solo.raft.last_index().0;
            solo.hear(4, matched_by(1, last, standing));
        }
        let outcome = solo.change(&automatic(vec![promote(4)]));
        assert_eq!(outcome.is_ok(), is_complete, "{outcome:?}");
    }
}

/// A node that was added as joining becomes a voter without a further word.
#[test]
fn a_joining_learner_is_promoted_by_the_leader() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.change(&automatic(vec![add_joining("four")])).expect("legal");
    all_match(&mut solo, &[2, 3]);
    assert_eq!(parts(solo.raft.membership()).2, [4]);
    for _ in 0..4 {
        all_match(&mut solo, &[2, 3, 4]);
    }
    assert_eq!(parts(solo.raft.membership()), (vec![1, 2, 3, 4], vec![], vec![]));
}

/// Thesis §4.3 and Figure 4.9: while the membership is joint, commits need both majorities, and the leader
/// leaves it by itself once it is committed.
#[test]
fn a_joint_membership_commits_with_both_majorities_and_is_left() {
    let mut solo = with_learner();
    let index = solo.raft.last_index().0 + 1;
    // Old voters 1, 2, 3; new ones 1, 4.
    let steps = vec![promote(4), remove(2), remove(3)];
    solo.change(&automatic(steps)).expect("legal");
    assert_eq!(parts(solo.raft.membership()), (vec![1, 4], vec![1, 2, 3], vec![]));
    solo.hear(2, matched(1, index));
    solo.hear(3, matched(1, index));
    assert_eq!(solo.commit(), index - 1, "all old voters, and of the new only itself");
    solo.hear(4, matched(1, index));
    assert_eq!(solo.commit(), index);
    solo.wait(0);
    assert_eq!(parts(solo.raft.membership()), (vec![1, 4], vec![], vec![]));
    // The last entry needs the new voters only.
    solo.hear(2, matched(1, index + 1));
    solo.hear(3, matched(1, index + 1));
    assert_eq!(solo.commit(), index);
    solo.hear(4, matched(1, index + 1));
    assert_eq!(solo.commit(), index + 1);
}

/// Row: joint with explicit leave. It stays until the operator ends it, with the new voters or with the
/// old.
#[test]
fn an_explicit_joint_membership_stays_until_it_is_left_or_cancelled() {
    for (ending, voters) in
        [(ChangeRequest::Leave, vec![1, 2]), (ChangeRequest::Cancel, vec![1, 2, 3])]
    {
        let mut solo = Solo::replicating(3, 1, &[]);
        assert_eq!(solo.change(&ChangeRequest::Leave), Err(ChangeError::NotJoint));
        assert_eq!(solo.change(&ChangeRequest::Cancel), Err(ChangeError::NotJoint));
        solo.change(&explicit(vec![remove(3)])).expect("legal");
        let pending = ChangeError::Pending { at: 2 };
        assert_eq!(solo.change(&ChangeRequest::Leave), Err(pending));
        for _ in 0..5 {
            all_match(&mut solo, &[2, 3]);
        }
        assert_eq!(parts(solo.raft.membership()), (vec![1, 2], vec![1, 2, 3], vec![]));
        assert_eq!(solo.change(&automatic(vec![add("four")])), Err(ChangeError::Joint));
        solo.change(&ending).expect("it is joint and committed");
        for _ in 0..3 {
            all_match(&mut solo, &[2, 3]);
        }
        assert_eq!(parts(solo.raft.membership()), (voters, vec![], vec![]), "{ending:?}");
    }
}

/// Cancelling. While its own joint entry is not committed a leader goes straight back; nobody can have
/// gone on from it. Afterwards somebody may have, and the way back needs both majorities again.
#[test]
fn a_change_is_cancelled_straight_only_before_it_is_committed() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.change(&explicit(vec![remove(3)])).expect("legal");
    solo.change(&ChangeRequest::Cancel).expect("not committed yet");
    assert_eq!(parts(solo.raft.membership()), (vec![1, 2, 3], vec![], vec![]));
    // Committed:
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.change(&explicit(vec![remove(3)])).expect("legal");
    all_match(&mut solo, &[2, 3]);
    solo.change(&ChangeRequest::Cancel).expect("committed");
    assert_eq!(parts(solo.raft.membership()), (vec![1, 2, 3], vec![1, 2], vec![]));
    // An earlier leader's, of which nobody knows whether it is committed: not yet.
    let voters = [1, 2].map(NodeId).to_vec();
    let joint = Membership::joint(voters, [1, 2, 3].map(NodeId).to_vec());
    let mut solo = Solo::with_log(3, 1, &[1]);
    let entry = membership_record(2, 1, Hlc(900), &joint);
    solo.hear(2, append(1, position(1, 1), 1, vec![entry]));
    solo.campaign(3);
    solo.hear(2, matched(2, 1));
    assert_eq!(solo.change(&ChangeRequest::Cancel), Err(ChangeError::LeaderTooNew));
}

/// Row: one at a time (thesis §4.1). A further change waits until the newest membership is committed.
#[test]
fn changes_are_made_one_at_a_time() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.change(&automatic(vec![add("four")])).expect("legal");
    let pending = Err(ChangeError::Pending { at: 2 });
    assert_eq!(solo.change(&automatic(vec![add("five")])), pending);
    assert_eq!(solo.change(&automatic(vec![remove(3)])), pending);
    solo.hear(2, matched(1, 2));
    solo.change(&automatic(vec![add("five")])).expect("the first is committed");
}

/// The erratum to thesis §4.1: a leader changes nothing before it has committed an entry of its own
/// term.
#[test]
fn a_leader_changes_nothing_before_its_first_commit() {
    let mut solo = Solo::in_role(RoleName::Leader, 3, 4, &[1, 1]);
    let change = automatic(vec![remove(3)]);
    assert_eq!(solo.change(&change), Err(ChangeError::LeaderTooNew));
    solo.hear(2, matched(4, 2));
    assert_eq!(solo.change(&change), Err(ChangeError::LeaderTooNew));
    solo.hear(2, matched(4, 3));
    assert_eq!(solo.change(&change), Ok(()));
}

/// Row: demote and replace. Both happen at once, through one joint membership.
#[test]
fn a_voter_is_replaced_by_a_learner_in_one_change() {
    let mut solo = with_learner();
    solo.change(&automatic(vec![promote(4), demote(3)])).expect("legal");
    assert_eq!(parts(solo.raft.membership()), (vec![1, 2, 4], vec![1, 2, 3], vec![]));
    for _ in 0..3 {
        all_match(&mut solo, &[2, 3, 4]);
    }
    assert_eq!(parts(solo.raft.membership()), (vec![1, 2, 4], vec![], vec![3]));
    assert!(solo.raft.membership().contains(NodeId(3)), "it still gets the log");
}

/// Row: idempotent re-proposal. What is true already needs no entry; removing what is gone succeeds, and
/// promoting it does not, as ids never come back.
#[test]
fn a_repeated_change_makes_no_second_entry() {
    let mut solo = with_learner();
    for change in [add("four"), demote(4), promote(3)] {
        let last = solo.raft.last_index();
        assert_eq!(solo.change(&automatic(vec![change.clone()])), Ok(()), "{change:?}");
        assert_eq!(solo.raft.last_index(), last, "{change:?}");
    }
    solo.change(&automatic(vec![remove(4)])).expect("legal");
    all_match(&mut solo, &[2, 3]);
    let last = solo.raft.last_index();
    assert_eq!(solo.change(&automatic(vec![remove(4)])), Ok(()));
    assert_eq!(solo.raft.last_index(), last);
    let gone = Err(ChangeError::Removed { node: NodeId(4) });
    assert_eq!(solo.change(&automatic(vec![promote(4)])), gone);
    solo.change(&automatic(vec![add("four")])).expect("a new node at the old address");
    assert_eq!(parts(solo.raft.membership()).2, [5]);
}

/// What makes no sense is refused with a reason, and nothing is appended.
#[test]
fn illegal_changes_are_refused() {
    let cases = [
        (vec![promote(9)], ChangeError::Unknown { node: NodeId(9) }),
        (vec![demote(9)], ChangeError::Unknown { node: NodeId(9) }),
        (vec![remove(9)], ChangeError::Unknown { node: NodeId(9) }),
        (vec![remove(1), remove(2), remove(3)], ChangeError::NoVoters),
        (vec![demote(1), demote(2), demote(3)], ChangeError::NoVoters),
    ];
    for (steps, error) in cases {
        let mut solo = Solo::replicating(3, 1, &[]);
        assert_eq!(solo.change(&automatic(steps)), Err(error));
        assert_eq!(solo.log(), [1]);
    }
}

/// Row: remove the leader (thesis §4.2.2). It leads on until the last entry is committed, without
/// counting itself, and then gives way.
#[test]
fn a_leader_that_is_removed_leads_until_that_is_committed_and_does_not_count() {
    for step in [remove(1), demote(1)] {
        let mut solo = Solo::replicating(3, 1, &[]);
        solo.change(&automatic(vec![step.clone()])).expect("legal");
        for follower in [2, 3] {
            solo.hear(follower, matched(1, 2));
        }
        let last = solo.raft.last_index().0;
        assert_eq!((last, nodes(solo.raft.membership().incoming())), (3, vec![2, 3]));
        assert!(!solo.raft.membership().is_joint());
        solo.hear(2, matched(1, last));
        assert_eq!((solo.commit(), solo.raft.is_leader()), (2, true), "2 is one of two");
        solo.hear(3, matched(1, last));
        solo.wait(0);
        assert_eq!((solo.commit(), solo.raft.role()), (last, RoleName::Follower), "{step:?}");
        let is_out = matches!(step, Step::Remove(_));
        assert_eq!(solo.raft.is_removed(), is_out);
        // It campaigns no more.
        for _ in 0..3 {
            solo.wait(300);
            assert_eq!(solo.raft.role(), RoleName::Follower);
        }
    }
}

/// Row: commit after removal. With fewer voters to ask, what waited is committed.
#[test]
fn what_waited_is_committed_when_the_silent_are_removed() {
    let mut group = Group::new(4).with_manual_timers();
    group.elect(1);
    group.propose(1);
    // 3 and 4 are silent: nothing more is committed, and removing one of them needs three of four.
    group.settle_among(&[1, 2]);
    let before = group.member(1).raft.commit_index();
    group.change(1, &automatic(vec![remove(4)])).expect("legal");
    group.settle_among(&[1, 2]);
    assert_eq!(group.member(1).raft.commit_index(), before);
    // 3 comes back.
    for _ in 0..4 {
        group.time_out(1);
        group.settle_among(&[1, 2, 3]);
    }
    assert_eq!(nodes(group.member(1).raft.membership().incoming()), [1, 2, 3]);
    assert_eq!(group.member(1).raft.commit_index(), group.member(1).raft.last_index());
    // Two of three are enough from now on.
    group.propose(1);
    group.settle_among(&[1, 2]);
    assert_eq!(group.member(1).raft.commit_index(), group.member(1).raft.last_index());
}

/// §6: "a server always uses the latest configuration in its log, regardless of whether the entry is
/// committed", and goes back to the one before if the entry is replaced (row: no campaign on unapplied
/// configuration, which here cannot be, as it is in force before it is applied).
#[test]
fn a_membership_counts_from_its_entry_on_and_is_undone_with_it() {
    let new = Membership::new([1, 2, 3, 4, 5].map(NodeId).to_vec());
    let mut solo = Solo::with_log(3, 1, &[1]);
    let entry = membership_record(2, 1, Hlc(900), &new);
    solo.hear(2, append(1, position(1, 1), 1, vec![entry]));
    assert_eq!((solo.raft.membership(), solo.commit()), (&new, 1));
    // It would ask all five.
    solo.sent.clear();
    solo.time_out();
    assert_eq!(solo.take_sent().iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3, 4, 5]);
    // And after a restart.
    let mut solo = solo.restarted(settings(1, 3, 2));
    assert_eq!(solo.raft.membership(), &new);
    solo.hear(3, append(2, position(1, 1), 1, records(2, &[2])));
    assert_eq!(nodes(solo.raft.membership().incoming()), [1, 2, 3]);
    assert_eq!(solo.raft.membership_index(), LogIndex(0));
}

/// §6: with a joint membership an election needs both majorities.
#[test]
fn an_election_under_a_joint_membership_needs_both_majorities() {
    let joint = Membership::joint([1, 2, 3].map(NodeId).to_vec(), [1, 4, 5].map(NodeId).to_vec());
    for (voters, is_won) in
        [(&[2, 3][..], false), (&[4, 5], false), (&[2, 4], true), (&[3, 5], true)]
    {
        let mut solo = Solo::with_log(3, 1, &[1]);
        let entry = membership_record(2, 1, Hlc(900), &joint);
        solo.hear(2, append(1, position(1, 1), 1, vec![entry]));
        solo.time_out();
        for voter in voters {
            solo.hear(*voter, pre_vote_response(2, true));
        }
        assert_eq!(solo.raft.role() == RoleName::Candidate, is_won, "{voters:?}");
        solo.hear(2, pre_vote_response(2, true));
        solo.hear(4, pre_vote_response(2, true));
        for voter in voters {
            solo.hear(*voter, vote_response(2, true));
        }
        assert_eq!(solo.raft.is_leader(), is_won, "{voters:?}");
    }
}

/// Row: learner election rules (thesis §4.2.1). A learner never campaigns, and its vote counts for
/// nothing; but it gives it when it is asked, since it may be about to be a voter (row: learners that
/// are about to be voters may be asked to vote).
#[test]
fn a_learner_never_campaigns_and_votes_when_it_is_asked() {
    let founding = Membership::new([2, 3].map(NodeId).to_vec()).with_learners(vec![NodeId(1)]);
    let mut solo = Solo::on_disk(
        Settings { founding, ..settings(1, 3, 1) },
        tests::image::Image::with_log(1, &[1]),
    );
    for _ in 0..5 {
        solo.wait(300);
        assert_eq!((solo.raft.role(), solo.take_sent()), (RoleName::Follower, vec![]));
    }
    let answer = solo.ask(2, pre_vote_request(2, position(1, 1)));
    assert_eq!(answer, [(2, pre_vote_response(2, true))]);
    let answer = solo.ask(2, vote_request(2, position(1, 1)));
    assert_eq!(answer, [(2, vote_response(2, true))]);
    let answer = solo.ask(3, vote_request(2, position(1, 1)));
    assert_eq!(answer, [(3, vote_response(2, false))], "one vote a term, like everybody");
    // On the other side:
    let founding = Membership::new([1, 2, 3].map(NodeId).to_vec());
    let founding = founding.with_learners(vec![NodeId(4), NodeId(5)]);
    let mut solo = Solo::on_disk(Settings { founding, ..settings(1, 3, 1) }, Default::default());
    solo.time_out();
    let asked: Vec<u64> = solo.take_sent().iter().map(|(to, _)| *to).collect();
    assert_eq!(asked, [2, 3], "learners are not asked");
    for learner in [4, 5] {
        solo.hear(learner, pre_vote_response(1, true));
        assert_eq!(solo.raft.role(), RoleName::PreCandidate);
    }
    solo.hear(2, pre_vote_response(1, true));
    for learner in [4, 5] {
        solo.hear(learner, vote_response(1, true));
        assert_eq!(solo.raft.role(), RoleName::Candidate);
    }
    solo.hear(3, vote_response(1, true));
    assert!(solo.raft.is_leader());
}

/// Row: non-promotable voter. A node that does not know of any membership yet never campaigns, takes what
/// a leader sends, and votes when it is asked; a voter that has not learned that it is one is one all
/// the same.
#[test]
fn a_node_that_knows_no_membership_yet_votes_and_follows() {
    let founding = Membership::new(Vec::new());
    let mut solo = Solo::on_disk(Settings { founding, ..settings(4, 0, 4) }, Default::default());
    for _ in 0..3 {
        solo.wait(300);
        assert_eq!((solo.raft.role(), solo.take_sent()), (RoleName::Follower, vec![]));
    }
    assert!(!solo.raft.is_removed());
    let answer = solo.ask(2, vote_request(2, position(1, 1)));
    assert_eq!(answer, [(2, vote_response(2, true))]);
    let four = Membership::new([1, 2, 3, 4].map(NodeId).to_vec());
    let entry = membership_record(1, 2, Hlc(900), &four);
    solo.hear(2, append(2, position(0, 0), 1, vec![entry]));
    solo.time_out();
    assert_eq!((solo.raft.membership(), solo.raft.role()), (&four, RoleName::PreCandidate));
}

/// Row: a removed node is quiet (thesis §4.2.3). One that heard of its removal never campaigns; one that
/// did not is told when it asks for votes, and disturbs nobody before.
#[test]
fn a_removed_node_is_quiet() {
    let mut group = Group::new(4).with_manual_timers();
    group.elect(1);
    // It hears of it:
    group.change(1, &automatic(vec![remove(4)])).expect("legal");
    for _ in 0..5 {
        group.time_out(1);
        group.settle();
    }
    assert!(group.member(4).raft.is_removed());
    group.time_out(2);
    for _ in 0..5 {
        group.now = group.now + engine::time::Micros::from_millis(300);
        group.turn(4);
        assert_eq!(group.member(4).raft.role(), RoleName::Follower);
    }
    // It is away meanwhile:
    let mut group = Group::new(4).with_manual_timers();
    group.elect(1);
    group.change(1, &automatic(vec![remove(4)])).expect("legal");
    for _ in 0..5 {
        group.time_out(1);
        group.settle_among(&[1, 2, 3]);
    }
    assert_eq!(nodes(group.member(1).raft.membership().incoming()), [1, 2, 3]);
    let term = group.member(1).raft.term();
    group.run_among(&[1, 2, 3], 400);
    assert_eq!(group.member(4).raft.role(), RoleName::PreCandidate);
    let last = group.member(4).raft.last_index().0;
    for node in 1..=3 {
        group.say(4, node, vote_request(term.0 + 5, position(9, last + 50)));
    }
    group.settle();
    assert!(group.member(4).raft.is_removed());
    assert_eq!((group.leader(), group.member(1).raft.term()), (Some(1), term));
    group.run_among(&[1, 2, 3], 400);
    assert_eq!(group.member(4).raft.role(), RoleName::Follower);
}

/// The news of a removal counts against everything but a membership that is committed here and newer. An
/// entry of its own time that nobody else has does not make a removed member deaf to it.
#[test]
fn the_news_of_a_removal_is_believed_unless_a_newer_membership_is_committed() {
    let members = |nodes: &[u64]| Membership::new(nodes.iter().map(|node| NodeId(*node)).collect());
    let with_entries = |commit| {
        let mut solo = Solo::with_log(3, 1, &[1]);
        let entry = membership_record(2, 1, Hlc(900), &members(&[1, 2, 3, 4]));
        solo.hear(2, append(1, position(1, 1), commit, vec![entry]));
        solo
    };
    // Committed at 2, and so the removal at 2 is a lie, and at 3 it is news.
    for (told, is_removed) in [(1, false), (2, false), (3, true)] {
        let mut solo = with_entries(2);
        solo.hear(3, removed(1, told));
        assert_eq!(solo.raft.is_removed(), is_removed, "committed; told of {told}");
    }
    // Not committed: another leader's entry took its place, and took this member out.
    let mut solo = with_entries(1);
    solo.hear(3, removed(2, 2));
    assert!(solo.raft.is_removed());
}

/// A leader goes on sending to those whom it removed until they know that it is committed.
#[test]
fn a_removed_member_still_learns_that_it_is_removed() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.change(&automatic(vec![remove(3)])).expect("legal");
    for _ in 0..2 {
        let last = solo.raft.last_index().0;
        solo.hear(2, matched(1, last));
        solo.wait(0);
    }
    let last = solo.raft.last_index().0;
    assert_eq!((nodes(solo.raft.membership().incoming()), solo.commit()), (vec![1, 2], last));
    let sends_to_three = |solo: &mut Solo| {
        solo.sent.clear();
        solo.time_out();
        solo.hear(2, matched(1, last));
        let to_three = |(to, message): &(u64, engine::raft::Message)| {
            *to == 3 && matches!(message.body, Body::Append { .. })
        };
        solo.sent.iter().any(to_three)
    };
    for _ in 0..5 {
        assert!(sends_to_three(&mut solo));
    }
    solo.hear(3, matched(1, last));
    sends_to_three(&mut solo);
    assert!(!sends_to_three(&mut solo), "it knows");
}

/// A group grows and shrinks by joint consensus while everything is lost and found: from three founders
/// to three others.
#[test]
fn a_group_can_be_replaced_member_by_member() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    for (new, old) in [(4, 2), (5, 3), (6, 1)] {
        let leader = group.leader().expect("somebody leads");
        assert_eq!(group.join(), new);
        let address = format!("node {new}");
        group.change(leader, &automatic(vec![add_joining(&address)])).expect("legal");
        for _ in 0..20 {
            group.time_out(leader);
            group.settle();
        }
        assert!(group.member(leader).raft.membership().incoming().contains(&NodeId(new)));
        group.change(leader, &automatic(vec![remove(old)])).expect("legal");
        for _ in 0..6 {
            if group.member(leader).raft.is_leader() {
                group.time_out(leader);
            }
            group.settle();
        }
        group.kill(old, 0);
        if group.leader().is_none() {
            group.elect(4);
        }
    }
    let leader = group.leader().expect("somebody leads");
    assert_eq!(nodes(group.member(leader).raft.membership().incoming()), [4, 5, 6]);
    group.propose(leader);
    group.settle();
    assert_eq!(group.member(leader).raft.commit_index(), group.member(leader).raft.last_index());
}
