//! Many keys deleted, of which some are when that fails.

use crate::kv::transaction::TRANSACTION_STEPS_MAX;

use super::*;

/// What was deleted before an error is counted: in chunks, and one by one; and where it is unknown what became of the last
/// ones, it is said to be the least.
#[test]
fn what_was_deleted_before_an_error_is_counted() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    let keys = vec![(Bytes::from("k"), 7); 2 * TRANSACTION_STEPS_MAX];
    // A chunk; another, in which one was written; two for themselves; and then an answer that does not fit.
    nodes[0].part().transacted = vec![true, false, true, true];
    let failed = patiently(client.delete_unchanged(&keys)).unwrap_err();
    let unknown = |error| matches!(error, ClientError::OutcomeUnknown { .. });
    assert_eq!(failed.deleted, TRANSACTION_STEPS_MAX as u64 + 2);
    let said = failed.to_string();
    assert!(
        said.starts_with("at least 130 of the keys are deleted, and then: "),
        "{said}"
    );
    assert!(unknown(failed.error));

    // A refusal is certain.
    let refusal = Refusal::malformed("?");
    nodes[0].part().refusals = vec![refusal];
    let failed = patiently(client.delete_unchanged(&keys)).unwrap_err();
    let said = failed.to_string();
    assert!(
        said.starts_with("0 of the keys are deleted, and then: "),
        "{said}"
    );
    assert!(!unknown(failed.error));
}
