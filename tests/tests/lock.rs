//! Locks: one holder at a time, in turn, for as long as a lease lives; in this process, and as the command that runs
//! others. And leases that are kept for something else.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_lite::future::{block_on, or, poll_once, zip};
use quorate::kv::{
    Client, ClientError, Compare, Condition, LEASES_OF_ONE_MAX, Lock, Lost, Step, Transaction,
};
use quorate_tests::cluster::{Cluster, id};
use quorate_tests::process::{self, eventually};
use quorate_tests::wait::until;

/// Somebody who waits for a lock.
type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Lock, ClientError>> + 'a>>;

/// Longer than all elections of a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any test, so that no lease ends by its time.
const LONG: Duration = Duration::from_secs(60);

/// How many have or want the lock.
async fn places(client: &Client) -> usize {
    let page = client.range("lock/", Some("lock0".into()), 100);
    page.await.expect("a read").pairs.len()
}

async fn has_places(client: &Client, count: usize) {
    until(format!("{count} places"), || async {
        (places(client).await == count).then_some(())
    })
    .await;
}

/// Takes the lock again and again, and is alone each time, with a higher number than all before.
async fn take_turns(client: Client, inside: Arc<AtomicBool>, last: Arc<AtomicU64>, times: u64) {
    for _ in 0..times {
        let lock = client.lock("lock", LONG).await.expect("the lock");
        assert!(!inside.swap(true, Ordering::SeqCst), "two have the lock");
        let before = last.swap(lock.revision(), Ordering::SeqCst);
        assert!(before < lock.revision(), "numbers rise");
        client.put("work", "done").await.expect("a write");
        assert!(inside.swap(false, Ordering::SeqCst));
        lock.release().await.expect("given back");
    }
}

/// While leaders are killed, one at a time has the lock, and all get it.
#[test]
fn one_at_a_time_while_leaders_are_killed() {
    const HOLDERS: u64 = 5;
    const TIMES: u64 = 12;
    let mut cluster = Cluster::start(3);
    let inside = Arc::new(AtomicBool::new(false));
    let last = Arc::new(AtomicU64::new(0));
    let holders: Vec<_> = (0..HOLDERS)
        .map(|_| {
            let client = cluster.client(PATIENCE);
            let turns = take_turns(client, Arc::clone(&inside), Arc::clone(&last), TIMES);
            std::thread::spawn(|| block_on(turns))
        })
        .collect();
    block_on(async {
        for _ in 0..2 {
            let seen = last.load(Ordering::SeqCst);
            let more = || async { (last.load(Ordering::SeqCst) > seen).then_some(()) };
            until("another holder", more).await;
            let leader = cluster.leader().await;
            cluster.kill(leader);
            cluster.leader().await;
            cluster.start_node(leader);
        }
    });
    for holder in holders {
        holder.join().expect("every turn comes");
    }
    block_on(has_places(&cluster.client(PATIENCE), 0));
}

/// Who came first has the lock first. A place is given up by whoever stops waiting, and a lock by whoever drops it.
#[test]
fn in_the_order_in_which_they_came() {
    block_on(async {
        let cluster = Cluster::start(1);
        let client = cluster.client(PATIENCE);
        let first = client.lock("lock", LONG).await.unwrap();
        let mut second = Box::pin(client.lock("lock", LONG));
        or(async { drop((&mut second).await) }, has_places(&client, 2)).await;
        let mut third = Box::pin(client.lock("lock", LONG));
        or(async { drop((&mut third).await) }, has_places(&client, 3)).await;
        let mut fourth = Box::pin(client.lock("lock", LONG));
        or(async { drop((&mut fourth).await) }, has_places(&client, 4)).await;

        drop(third);
        has_places(&client, 3).await;
        first.release().await.unwrap();
        let late = async {
            let second = second.await.unwrap();
            assert!(poll_once(&mut fourth).await.is_none());
            drop(second);
            fourth.await.unwrap()
        };
        let fourth = late.await;
        assert_eq!(places(&client).await, 1);

        // As long as somebody else has it, nobody waits longer than they want to.
        let over = async {
            has_places(&client, 2).await;
        };
        let none = client.lock_unless("lock", LONG, over).await.unwrap();
        assert!(none.is_none());
        assert_eq!(places(&client).await, 1);
        fourth.release().await.unwrap();
        assert_eq!(places(&client).await, 0);
    });
}

/// A holder whose lease is revoked hears of it, the next has the lock, and the number tells them apart.
#[test]
fn a_lock_that_is_taken_away() {
    block_on(async {
        let cluster = Cluster::start(1);
        let client = cluster.client(PATIENCE);
        let lock = client.lock("lock", Duration::from_secs(1)).await.unwrap();
        let fenced = || Transaction {
            compare: vec![Compare {
                key: lock.key().clone(),
                condition: Condition::Revision(lock.revision()),
            }],
            then: vec![Step::Put {
                key: "work".into(),
                value: "done".into(),
                lease: None,
            }],
            ..Transaction::default()
        };
        assert!(client.transact(fenced()).await.unwrap().succeeded);
        let next = client.lock("lock", LONG);
        let taken = async {
            has_places(&client, 2).await;
            client.revoke_lease(lock.lease()).await.unwrap();
            lock.lost().await
        };
        let (next, lost) = zip(next, taken).await;
        assert_eq!(lost, Lost::Ended);
        assert!(!client.transact(fenced()).await.unwrap().succeeded);
        assert!(next.unwrap().revision() > lock.revision());
        let late = lock.release().await.unwrap_err();
        assert!(matches!(late, ClientError::LockLost(Lost::Ended)), "{late}");
    });
}

/// A holder that has heard of nothing yet is told when it gives the lock back: that its lease was revoked, or its key
/// removed, and also where somebody has had the lock since.
#[test]
fn a_loss_is_told_at_the_latest_when_the_lock_is_given_back() {
    block_on(async {
        let cluster = Cluster::start(1);
        let client = cluster.client(PATIENCE);
        let revoked = client.lock("lock", LONG).await.unwrap();
        client.revoke_lease(revoked.lease()).await.unwrap();
        let next = client.lock("lock", LONG).await.unwrap();
        let late = revoked.release().await.unwrap_err();
        assert!(matches!(late, ClientError::LockLost(Lost::Ended)), "{late}");

        client.delete(next.key().clone()).await.unwrap();
        let last = client.lock("lock", LONG).await.unwrap();
        let lease = next.lease();
        let late = next.release().await.unwrap_err();
        assert!(
            matches!(late, ClientError::LockLost(Lost::KeyGone)),
            "{late}"
        );
        assert_eq!(client.lease(lease).await.unwrap(), None, "it goes as well");

        let key = last.key().clone();
        client.put(key.clone(), "written").await.unwrap();
        let late = last.release().await.unwrap_err();
        assert!(
            matches!(late, ClientError::LockLost(Lost::KeyGone)),
            "{late}"
        );
        client.delete(key).await.unwrap();
        let held = client.lock("lock", LONG).await.unwrap();
        held.release().await.unwrap();
        assert_eq!(places(&client).await, 0);
    });
}

/// Who hears of no leader for as long as its lease lives does not go on, and who is removed while waiting does not wait
/// for ever.
#[test]
fn a_lock_that_cannot_be_kept() {
    block_on(async {
        let mut cluster = Cluster::start(2);
        let client = cluster.client(PATIENCE);
        let lock = client.lock("lock", Duration::from_secs(2)).await.unwrap();
        let removed = async {
            has_places(&client, 2).await;
            let page = client.range("lock/", None, 10).await.unwrap();
            let own = page.pairs.iter().find(|pair| pair.key != lock.key());
            client.delete(own.unwrap().key.clone()).await.unwrap();
            has_places(&client, 1).await;
            // Its turn would come now.
            client.delete(lock.key().clone()).await.unwrap();
        };
        let (waiting, ()) = zip(client.lock("lock", LONG), removed).await;
        let error = waiting.unwrap_err();
        assert!(
            matches!(error, ClientError::LockLost(Lost::KeyGone)),
            "{error}"
        );

        let leader = cluster.leader().await;
        cluster.kill(leader);
        assert_eq!(lock.lost().await, Lost::NotKept);
    });
}

/// Who waits goes on waiting without a leader, for longer than its lease lives and than a request may take, and so does
/// who begins then.
#[test]
fn waiting_outlasts_an_outage() {
    block_on(async {
        let mut cluster = Cluster::start(3);
        let client = cluster.client(PATIENCE);
        let hurried = cluster.client(Duration::from_millis(500));
        let ttl = Duration::from_secs(1);
        let holder = client.lock("lock", LONG).await.unwrap();
        let mut before: Waiting<'_> = Box::pin(hurried.lock("lock", ttl));
        or(async { drop((&mut before).await) }, has_places(&client, 2)).await;
        let other = client.lock("other", ttl).await.unwrap();
        for node in [1, 2].map(id) {
            cluster.kill(node);
        }
        let mut during: Waiting<'_> = Box::pin(hurried.lock("lock", ttl));
        let outage = async {
            assert_eq!(other.lost().await, Lost::NotKept);
            // Whoever is as impatient has given up by now.
            assert!(hurried.get("key").await.is_err());
        };
        let early = async {
            let (first, second) = zip(&mut before, &mut during).await;
            panic!("nobody gives it to {first:?} and {second:?}");
        };
        or(early, outage).await;
        for node in [1, 2].map(id) {
            cluster.start_node(node);
        }
        holder.release().await.expect("held all the time");
        let turn = async |waiting: Waiting<'_>| {
            let lock = waiting.await.expect("its turn comes");
            lock.release().await.expect("held");
        };
        zip(turn(before), turn(during)).await;
    });
}

/// The keys of the lock `jobs`, which are there while somebody has or wants it.
fn keys(cluster: &process::Cluster) -> Vec<String> {
    let range = cluster
        .run(&["kv", "range", "--prefix", "jobs/"])
        .succeeded();
    let key = |line: &str| line.split('\t').next().map(str::to_owned);
    range.out.lines().filter_map(key).collect()
}

/// Ends as the command does, which is told the lock's number, and leaves nothing behind.
#[test]
fn a_command_runs_with_the_lock() {
    let cluster = process::Cluster::started();
    let script = "echo $QUORATE_LOCK_REVISION $QUORATE_LOCK_KEY; exit 7";
    let lock = |script| cluster.run(&["kv", "lock", "jobs", "--", "sh", "-c", script]);
    let number = |said: &str| said.split(' ').next().unwrap().parse::<u64>().unwrap();
    let [one, two] = [lock(script), lock(script)];
    for ended in [&one, &two] {
        assert_eq!((ended.code, &*ended.err), (7, ""), "{ended:#?}");
        assert!(ended.out.contains(" jobs/0000"), "{ended:#?}");
    }
    assert!(number(&one.out) < number(&two.out));
    assert_eq!(lock("kill -KILL $$").code, 137);
    cluster
        .run(&["kv", "lock", "jobs", "--", "./no-such-program"])
        .failed(66, &["no-such-program"]);
    assert_eq!(keys(&cluster), Vec::<String>::new());
}

/// Others wait their turn, as long as they want to; a signal ends the command, or the waiting, and gives the lock back.
#[test]
fn commands_wait_and_are_interrupted() {
    let cluster = process::Cluster::started();
    let hold = || cluster.begin(&["kv", "lock", "jobs", "--", "cat"]);
    let holder = hold();
    assert!(eventually(|| keys(&cluster).len() == 1));
    cluster
        .run(&["kv", "lock", "jobs", "--wait", "200ms", "--", "true"])
        .failed(75, &["within 200ms"]);
    assert_eq!(keys(&cluster).len(), 1, "nobody waits any more");
    let (next, last) = (hold(), hold());
    assert!(eventually(|| keys(&cluster).len() == 3));
    let listed = cluster.run(&["kv", "lease", "list"]).succeeded().out;
    for key in keys(&cluster) {
        let (_, lease) = key.split_once('/').unwrap();
        let line = format!("{}\tends in ", lease.trim_start_matches('0'));
        assert!(listed.contains(&line), "{lease}: {listed}");
    }
    assert_eq!(listed.matches(", of 10s\t1 key\n").count(), 3, "{listed}");
    let first = ["kv", "lease", "list", "--limit", "1", "--json"];
    let first = cluster.run(&first).succeeded().out;
    assert!(first.contains("\"more\":true"), "{first}");
    last.send("INT");
    assert_eq!(last.ended().code, 130);
    holder.send("TERM");
    assert_eq!(holder.ended().code, 143);
    assert!(eventually(|| keys(&cluster).len() == 1));
    // Its standard input ends, and so does it.
    next.ended_of_input().succeeded();
    assert_eq!(keys(&cluster), Vec::<String>::new());
}

/// By `nohup`, neither the command nor who holds its lock minds that the terminal is gone.
#[cfg(target_os = "linux")] // which says what a process ignores
#[test]
fn a_command_outlives_the_terminal() {
    let cluster = process::Cluster::started();
    let script = "kill -HUP $PPID; kill -HUP $$; cat; echo done";
    let lock = ["kv", "lock", "jobs", "--", "sh", "-c", script];
    let ended = cluster.begin_by_nohup(&lock).ended_of_input().succeeded();
    assert_eq!((&*ended.out, &*ended.err), ("done\n", ""));
    assert_eq!(keys(&cluster), Vec::<String>::new());
}

/// When the lock is lost, the command is told to end, and whoever started it that it did not run alone.
#[test]
fn a_command_whose_lock_is_lost() {
    let cluster = process::Cluster::started();
    let script = "trap 'echo told; exit 0' TERM; while :; do read line; done";
    let holder = cluster.begin(&[
        "kv", "lock", "jobs", "--ttl", "1s", "--", "sh", "-c", script,
    ]);
    assert!(eventually(|| keys(&cluster).len() == 1));
    let key = keys(&cluster).remove(0);
    let (_, lease) = key.split_once('/').unwrap();
    cluster.run(&["kv", "lease", "revoke", lease]).succeeded();
    let ended = holder.ended().failed(75, &["SIGTERM", "revoked"]);
    assert_eq!(ended.out, "told\n");
}

/// A command that succeeds is no success when somebody else had its lock meanwhile, although it was not told before.
#[test]
fn a_command_that_ends_before_its_loss_is_noticed() {
    let cluster = process::Cluster::started();
    let holder = cluster.begin(&["kv", "lock", "jobs", "--ttl", "60s", "--", "cat"]);
    assert!(eventually(|| keys(&cluster).len() == 1));
    let key = keys(&cluster).remove(0);
    let (_, lease) = key.split_once('/').unwrap();
    cluster.run(&["kv", "lease", "revoke", lease]).succeeded();
    cluster
        .run(&["kv", "lock", "jobs", "--", "true"])
        .succeeded();
    holder
        .ended_of_input()
        .failed(75, &["lost while the command ran", "revoked"]);
}

/// One identity gets its share of the leases, over however many connections, and is told so where it wants more; one
/// that it gives back it gets again.
#[test]
fn nobody_gets_more_than_a_share_of_the_leases() {
    const AT_ONCE: usize = 64;
    let cluster = Cluster::start(1);
    let grants: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let client = cluster.client(PATIENCE);
            std::thread::spawn(move || {
                for _ in 0..LEASES_OF_ONE_MAX / AT_ONCE {
                    block_on(client.grant_lease(10 * LONG)).expect("a lease of the share");
                }
            })
        })
        .collect();
    for grant in grants {
        grant.join().expect("all of the share");
    }
    let client = cluster.client(PATIENCE);
    block_on(async {
        let more = client.grant_lease(LONG).await;
        assert!(
            matches!(more, Err(ClientError::TooManyLeasesOfOne)),
            "{more:?}"
        );
        let first = client.leases(0, 1).await.expect("a read").leases[0].number;
        client.revoke_lease(first).await.expect("given back");
        client.grant_lease(LONG).await.expect("one in its place");
    });
}

/// A lease lives for longer than its time while somebody keeps it; dropped, given back or revoked, it ends with its keys,
/// and whoever keeps it hears of that.
#[test]
fn a_lease_is_kept_while_its_owner_lives() {
    block_on(async {
        let cluster = Cluster::start(1);
        let client = cluster.client(PATIENCE);
        let ttl = Duration::from_secs(1);
        let kept = async || {
            let lease = client.keep_new_lease(ttl).await.unwrap();
            let put = client.put_with_lease("alive", "yes", lease.id()).await;
            put.unwrap();
            lease
        };
        let lives = async || client.get("alive").await.unwrap().is_some();
        let lease = kept().await;
        let begun = Instant::now();
        while begun.elapsed() < 2 * ttl {
            assert!(lives().await);
        }
        assert_eq!(lease.is_lost(), None);
        drop(lease);
        while lives().await {}

        let lease = kept().await;
        lease.revoke().await.unwrap();
        assert!(!lives().await);

        let lease = kept().await;
        client.revoke_lease(lease.id()).await.unwrap();
        assert_eq!(lease.lost().await, Lost::Ended);
        let late = lease.revoke().await.unwrap_err();
        assert!(matches!(late, ClientError::LeaseUnknown { .. }), "{late}");
    });
}
