//! What survives a power failure, and what does not.

use super::*;

const FILE: &str = "/data/file";

fn written(disk: &Disk, writes: &[(u64, u8)]) -> Box<dyn Storage> {
    let path = Path::new(FILE);
    let files = disk.mount(None);
    quorate_persist::make_directory(&*files, Path::new("/data")).unwrap();
    let file = files.create(path).unwrap();
    file.set_length(4 * SECTOR_BYTES as u64).unwrap();
    file.write(0, &[1; 4 * SECTOR_BYTES]).unwrap();
    file.sync_data().unwrap();
    files.sync_directory(Path::new("/data")).unwrap();
    for &(sector, byte) in writes {
        let at = sector * SECTOR_BYTES as u64;
        file.write(at, &[byte; SECTOR_BYTES]).unwrap();
    }
    file
}

fn content(disk: &Disk) -> Vec<u8> {
    let file = disk.mount(None).open(Path::new(FILE)).unwrap();
    let mut bytes = vec![0; file.length().unwrap() as usize];
    file.read(0, &mut bytes).unwrap();
    bytes
}

/// Nothing unsynced is in the durable image, whatever was written how often, and whatever the
/// length was changed to; what was synced is.
#[test]
fn only_what_was_synced_is_durable() {
    let disk = Disk::new(1, 1);
    let file = written(&disk, &[(0, 2), (1, 3), (1, 4)]);
    file.set_length(SECTOR_BYTES as u64).unwrap();
    file.set_length(9 * SECTOR_BYTES as u64).unwrap();
    file.write(8 * SECTOR_BYTES as u64, &[5; 10]).unwrap();
    assert_eq!(content(&disk.durable_image()), vec![1; 4 * SECTOR_BYTES]);
    file.sync_data().unwrap();
    assert_eq!(content(&disk.durable_image()), content(&disk));
}

/// A power failure leaves each sector in one of the forms it had, whole or torn; over many of them
/// every form is seen.
#[test]
fn a_power_failure_leaves_any_version() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let disk = Disk::new(seed, 1);
        let _file = written(&disk, &[(1, 3), (1, 4)]);
        disk.cut_off();
        disk.lose_power();
        let bytes = content(&disk);
        assert!(
            bytes[..SECTOR_BYTES].iter().all(|byte| *byte == 1),
            "not touched"
        );
        let sector = &bytes[SECTOR_BYTES..2 * SECTOR_BYTES];
        assert!(
            sector.iter().all(|byte| [1, 3, 4].contains(byte)),
            "never mixed up"
        );
        seen.insert((sector[0], sector[SECTOR_BYTES - 1]));
    }
    for version in [(1, 1), (3, 3), (4, 4), (4, 1)] {
        assert!(seen.contains(&version), "{version:?} in {seen:?}");
    }
}

/// A name that no directory sync has made durable may be lost, and then its file is; so may a
/// directory, with all that is in it.
#[test]
fn a_name_is_durable_with_its_directory_only() {
    let disk = Disk::new(1, 1);
    let files = disk.mount(None);
    let (directory, path) = (Path::new("/data"), Path::new(FILE));
    files.make_directory(directory).unwrap();
    let file = files.create(path).unwrap();
    file.sync_data().unwrap();
    let exists = |disk: &Disk| disk.mount(None).exists(path).unwrap();
    assert!(!exists(&disk.durable_image()));
    files.sync_directory(directory).unwrap();
    assert!(
        !exists(&disk.durable_image()),
        "nor is the directory itself"
    );
    files.sync_directory(Path::new("/")).unwrap();
    assert!(exists(&disk.durable_image()));
    files.remove(path).unwrap();
    assert!(exists(&disk.durable_image()), "nor is a removal");
}

/// What is written through is durable at once; what was written before, even where it overlaps, is
/// so nowhere else.
#[test]
fn what_is_written_through_is_durable_alone() {
    let disk = Disk::new(1, 1);
    let path = Path::new(FILE);
    drop(written(&disk, &[(0, 2), (1, 3), (2, 4)]));
    let file = disk.mount(None).open(path).unwrap();
    let sector = SECTOR_BYTES as u64;
    file.write(sector / 2, &[8; 2 * SECTOR_BYTES]).unwrap();
    file.write_through(sector, &[9; SECTOR_BYTES]).unwrap();
    file.write(sector, &[7; 1]).unwrap();
    let durable = content(&disk.durable_image());
    let mut expected = vec![1; 4 * SECTOR_BYTES];
    expected[SECTOR_BYTES..2 * SECTOR_BYTES].fill(9);
    assert_eq!(durable, expected);
}

/// A sync that fails loses what it was for, and the next one succeeds without it.
#[test]
fn a_failed_sync_takes_its_writes_with_it() {
    let disk = Disk::new(1, 1);
    let file = written(&disk, &[(0, 2), (3, 3)]);
    file.set_length(SECTOR_BYTES as u64).unwrap();
    file.write(0, &[4; 2 * SECTOR_BYTES]).unwrap();
    disk.fail(0, Failure::LostSync);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(content(&disk), vec![1; 4 * SECTOR_BYTES]);
    assert_eq!(content(&disk.durable_image()), content(&disk));
}

/// Of a process that has ended, nothing has an effect.
#[test]
fn a_dead_process_writes_nothing() {
    let disk = Disk::new(1, 1);
    let file = written(&disk, &[]);
    disk.cut_off();
    assert!(file.write(0, &[9]).is_err());
    assert_eq!(content(&disk), vec![1; 4 * SECTOR_BYTES]);
}
