//! Nothing acknowledged is lost: at the end every message that was accepted and not removed is in
//! its queue, in its place, and nothing else is.

use super::model::Model;
use super::{Rule, Violation};
use engine::ids::NodeId;
use engine::queue::{Query, Reply};

/// Compares a node's queues with those of the replayed model. `query` asks the node's machine.
///
/// # Errors
/// [`Rule::NothingLost`] with the first queue that differs.
pub fn check(
    at_us: u64,
    node: NodeId,
    model: &Model,
    query: impl Fn(&Query) -> Reply,
) -> Result<(), Violation> {
    let names = model.queues.queue_names().map(str::to_owned);
    let list = Query::List { after: None, max: 4_096 };
    let questions = names.map(|queue| Query::Browse { queue, after: None, max: 4_096 });
    for question in core::iter::once(list).chain(questions) {
        let (expected, found) = (model.queues.query(&question), query(&question));
        if expected != found {
            let explanation = format!(
                "node {node} answers {question:?} with {found:?}; what was committed gives \
                 {expected:?}"
            );
            return Err(Violation::new(Rule::NothingLost, at_us, explanation));
        }
    }
    Ok(())
}
