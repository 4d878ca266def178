//! The `quorate` command: see `quorate --help`.
#![forbid(unsafe_code)]

mod cli;

/// Entries are allocated by the threads that receive them and freed by those that write them out, some hundred
/// thousand a second. glibc's allocator took an eighth of all processor time under full load, and more memory.
/// Programs that embed a node choose their own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
