//! Writes that become "unknown".

use super::*;

/// A write of which the cluster knows that it happened, and not what it was answered, is unknown, and not sent again.
#[test]
fn h3_an_answer_that_is_not_kept_is_said_so() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    nodes[0].part().forgetful = true;
    let written = patiently(client.compare_and_set("k", None, None)).map(drop);
    let Err(ClientError::OutcomeUnknown { node: asked, why }) = written else {
        panic!("{written:?}");
    };
    assert_eq!((asked, why), (node(1), Unanswered::NotKept));
    assert_eq!(nodes[0].part().writes, 1);
}
