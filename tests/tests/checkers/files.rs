//! Histories survive being saved, and can be given to others.

use std::path::Path;

use quorate_tests::check::calls::calls;
use quorate_tests::check::history::{Answer, History, Kind, Operation};
use quorate_tests::check::{FileError, check, check_file, porcupine};
use serde_json::Value as Json;

use crate::register::{self, Shape};

fn made() -> History {
    let shape = Shape {
        operations: 300,
        clients: 6,
        keys: 3,
        unknown: 5,
        removals: 10,
    };
    register::history(7, shape).history
}

fn with_file<T>(text: &str, then: impl FnOnce(&Path) -> T) -> T {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    then(file.path())
}

/// What is saved is what is loaded, and has the same verdict.
#[test]
fn saved_and_loaded() {
    with_file("", |path| {
        let history = made();
        history.save(path).unwrap();
        assert_eq!(History::load(path).unwrap(), history);
        assert_eq!(check_file(path).unwrap(), check(&history).unwrap());
    });
}

/// The form on disk stays what it is: an event a line.
#[test]
fn the_form_of_a_file() {
    let text = concat!(
        r#"{"seq":0,"at_ns":5,"client":1,"op_id":0,"kind":{"invoke":{"put":{"key":1,"value":2}}}}"#,
        "\n",
        r#"{"seq":1,"at_ns":6,"client":1,"op_id":0,"kind":{"ok":{"answer":"written","index":9}}}"#,
        "\n",
        r#"{"seq":2,"at_ns":7,"client":1,"op_id":1,"kind":{"invoke":"scan"}}"#,
        "\n",
        r#"{"seq":3,"at_ns":8,"client":1,"op_id":1,"kind":"unknown"}"#,
        "\n",
    );
    with_file(text, |path| {
        let history = History::load(path).unwrap();
        assert_eq!(
            history.events[0].kind,
            Kind::Invoke(Operation::Put { key: 1, value: 2 })
        );
        assert_eq!(
            history.events[1].kind,
            Kind::Ok {
                answer: Answer::Written,
                index: Some(9)
            }
        );
        history.save(path).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    });
}

/// What cannot be read has no verdict, and the line is named.
#[test]
fn a_damaged_file() {
    let error = with_file("{\"seq\":0}\n", |path| check_file(path).unwrap_err());
    assert!(matches!(error, FileError::Load(_)));
    assert!(error.to_string().contains("line 1"), "{error}");
    let error = check_file(Path::new("/nowhere")).unwrap_err();
    assert!(matches!(error, FileError::Load(_)), "{error}");
}

/// The export has every operation that may have happened, in porcupine's fields.
#[test]
fn for_porcupine() {
    let calls = calls(&made()).unwrap();
    let mut text = Vec::new();
    porcupine::export(&calls, &mut text).unwrap();
    let operations: Vec<Json> = serde_json::from_slice(&text).unwrap();
    let expected: usize = calls
        .iter()
        .map(|call| match (call.answer(), &call.operation) {
            (Some(_), Operation::Scan) => 3,
            (Some(_), _) => 1,
            (None, operation) => usize::from(!operation.is_read()),
        })
        .sum();
    assert_eq!(operations.len(), expected);
    let end = operations.iter().map(|of| of["Return"].as_u64()).max();
    for operation in &operations {
        assert!(operation["Call"].as_u64() < operation["Return"].as_u64());
        assert!(operation["ClientId"].is_u64() && operation["Input"]["op"].is_string());
        if operation["Output"]["unknown"] == true {
            assert_eq!(operation["Return"].as_u64(), end.unwrap());
        }
    }
    let mut empty = Vec::new();
    porcupine::export(&[], &mut empty).unwrap();
    assert_eq!(
        serde_json::from_slice::<Vec<Json>>(&empty).unwrap().len(),
        0
    );
}
