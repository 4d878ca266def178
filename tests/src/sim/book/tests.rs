//! Each promise, broken.

use quorate_consensus::Payload;

use super::*;

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn entry(term: u64, index: u64, command: &'static str) -> Entry {
    Entry {
        id: EntryId::new(Term::new(term), LogIndex::new(index)),
        payload: Payload::Command(command.into()),
    }
}

fn hard(term: u64, vote: u64, commit: u64) -> HardState {
    HardState {
        term: Term::new(term),
        vote: NodeId::new(vote),
        commit: LogIndex::new(commit),
    }
}

fn write(hard_state: HardState, entries: &[Entry]) -> LogWrite {
    LogWrite {
        cut: None,
        hard_state,
        entries: entries.to_vec(),
    }
}

/// Three nodes, each with a store of its number; nodes 1 and 2 have an entry that node 1 says is
/// committed.
fn book() -> Book {
    let mut book = Book::new(3);
    for id in 1..=3 {
        open(&mut book, id, 1, hard(1, 0, 1), &[]);
    }
    tell(&mut book, 2, hard(2, 1, 1), &[entry(2, 2, "a")]);
    tell(&mut book, 1, hard(2, 1, 1), &[entry(2, 2, "a")]);
    tell(&mut book, 1, hard(2, 1, 2), &[]);
    assert_eq!(book.failure(), None);
    book
}

fn open(book: &mut Book, id: u64, boot: u64, hard_state: HardState, entries: &[Entry]) {
    let instance = Instance {
        store_id: id.into(),
        boot,
    };
    book.opened(node(id), instance, hard_state, ORIGIN, entries);
}

fn tell(book: &mut Book, id: u64, hard_state: HardState, entries: &[Entry]) {
    let batch = [write(hard_state, entries)];
    book.writing(id.into(), &batch);
    book.written(node(id), id.into(), &batch);
}

fn broken(book: &Book) -> String {
    book.failure()
        .map_or("nothing".into(), |failure| failure.invariant)
}

/// Each promise, broken in the simplest way, is the one that is noticed.
#[test]
fn every_broken_promise_is_noticed() {
    type Breaks = fn(&mut Book);
    let cases: [(&str, Breaks); 11] = [
        ("one leader per term", |book| {
            book.leads(node(1), Term::new(2));
            book.leads(node(2), Term::new(2));
        }),
        ("leader completeness", |book| {
            book.leads(node(3), Term::new(3));
        }),
        ("log matching", |book| {
            tell(book, 3, hard(2, 1, 1), &[entry(2, 2, "b")]);
        }),
        ("committed never changes", |book| {
            tell(book, 2, hard(3, 3, 1), &[entry(3, 2, "b")]);
        }),
        ("committed on a majority of disks", |book| {
            tell(book, 1, hard(2, 1, 3), &[entry(2, 3, "b")]);
        }),
        ("no gaps", |book| {
            tell(book, 3, hard(2, 1, 1), &[entry(2, 4, "b")]);
        }),
        ("one vote per term", |book| {
            tell(book, 1, hard(2, 2, 2), &[]);
        }),
        ("term is monotone", |book| tell(book, 1, hard(1, 0, 2), &[])),
        ("commit is monotone", |book| {
            tell(book, 1, hard(2, 1, 1), &[]);
        }),
        ("durable writes survive", |book| {
            open(book, 1, 2, hard(2, 1, 2), &[]);
        }),
        ("starts are counted", |book| {
            open(book, 1, 1, hard(2, 1, 2), &[entry(2, 2, "a")]);
        }),
    ];
    for (promise, breaks) in cases {
        let mut book = book();
        breaks(&mut book);
        assert_eq!(broken(&book), promise);
    }
}

/// What a write under way left behind is in order: all of it, or none.
#[test]
fn a_write_under_way_may_survive() {
    for (survives, hard_state) in [(true, hard(3, 2, 2)), (false, hard(2, 1, 2))] {
        let mut book = book();
        book.writing(1, &[write(hard(3, 2, 2), &[])]);
        book.durable_is(node(1), hard_state, ORIGIN, &[entry(2, 2, "a")]);
        open(&mut book, 1, 2, hard_state, &[entry(2, 2, "a")]);
        assert_eq!(broken(&book), "nothing", "survives: {survives}");
    }
}

/// Equal entries give equal answers and equal states.
#[test]
fn g14_states_that_differ_are_noticed() {
    let mut book = book();
    let at = entry(2, 2, "a").id;
    book.state_is(node(1), at, 7);
    book.state_is(node(2), at, 7);
    assert_eq!(broken(&book), "nothing");
    book.state_is(node(3), at, 8);
    assert_eq!(broken(&book), "equal states");
}
