//! Each system call by which a piece of work changes the file system, one by one,
//! before it happens: to count it, to end the process there, or to let it fail.
//!
//! The work runs on a thread of its own whose calls the kernel reports to this one
//! (seccomp(2), `SECCOMP_RET_USER_NOTIF`), so nothing in chasi has to take part,
//! and no call is missed because someone forgot to name it. rayon's threads are
//! made by that thread and inherit the filter; there is one of them, so that the
//! calls of two runs come in the same order.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;

/// A call that is about to change a file system.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    pub name: &'static str,
    /// The first argument: for many calls, a descriptor of this process.
    pub argument: u64,
    /// Whether it may need room on the disk.
    pub allocates: bool,
}

/// What becomes of it.
pub enum Verdict {
    Happen,
    /// It fails with this error number and does nothing.
    Fail(i32),
}

/// A call, its name, and whether it allocates.
type Known = (i64, &'static str, bool);

const KNOWN: &[Known] = &[
    (libc::SYS_openat, "openat", true),
    (libc::SYS_write, "write", true),
    (libc::SYS_writev, "writev", true),
    (libc::SYS_pwrite64, "pwrite", true),
    (libc::SYS_copy_file_range, "copy_file_range", true),
    (libc::SYS_sendfile, "sendfile", true),
    (libc::SYS_fallocate, "fallocate", true),
    (libc::SYS_ftruncate, "ftruncate", false),
    (libc::SYS_mkdirat, "mkdirat", true),
    (libc::SYS_linkat, "linkat", true),
    (libc::SYS_symlinkat, "symlinkat", true),
    (libc::SYS_unlinkat, "unlinkat", false),
    (libc::SYS_renameat2, "renameat2", true),
    (libc::SYS_fchmod, "fchmod", false),
    (libc::SYS_fchmodat, "fchmodat", false),
    (libc::SYS_fchown, "fchown", false),
    (libc::SYS_fchownat, "fchownat", false),
    (libc::SYS_utimensat, "utimensat", false),
    (libc::SYS_fsetxattr, "fsetxattr", true),
    (libc::SYS_fsync, "fsync", false),
    (libc::SYS_fdatasync, "fdatasync", false),
    (libc::SYS_syncfs, "syncfs", false),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", true),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", true),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", false),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", true),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, "symlink", true),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", false),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", true),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", false),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, "chown", false),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lchown, "lchown", false),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_renameat, "renameat", true),
];

/// Does the work; `decide` is asked before each effect.
pub fn watched<T: Send>(
    work: impl FnOnce() -> T + Send,
    mut decide: impl FnMut(Effect) -> Verdict,
) -> T {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let worker = scope.spawn(move || {
            sender.send(report_calls_of_this_thread()).unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            pool.unwrap().install(work)
        });
        let listener = receiver.recv().unwrap();
        while let Some(call) = receive(&listener) {
            let verdict = match effect_of(&call.data) {
                Some(effect) => decide(effect),
                None => Verdict::Happen,
            };
            answer(&listener, call.id, verdict);
        }
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn effect_of(call: &libc::seccomp_data) -> Option<Effect> {
    let number = i64::from(call.nr);
    let (_, name, allocates) = *KNOWN.iter().find(|(known, ..)| *known == number)?;
    let creates = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
    let changes = match name {
        "openat" => creates(call.args[2]),
        "open" => creates(call.args[1]),
        // What a test says is no effect.
        "write" | "writev" => call.args[0] > 2,
        _ => true,
    };
    changes.then_some(Effect {
        name,
        argument: call.args[0],
        allocates,
    })
}

/// Lets the kernel report the calls in [`KNOWN`] of this thread, and of those that
/// it will make.
#[expect(
    unsafe_code,
    reason = "no safe crate reports system calls; the pointers are to values that live until the calls return"
)]
fn report_calls_of_this_thread() -> OwnedFd {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let load_number = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let answer = |k| statement(libc::BPF_RET | libc::BPF_K, k);
    let mut program = vec![load_number];
    for (number, ..) in KNOWN {
        program.push(libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: *number as u32,
        });
        program.push(answer(libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program lives until the call returns, and the kernel copies it.
    // What comes back is a descriptor that nobody else has.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let listener = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &program,
        );
        let error = std::io::Error::last_os_error();
        assert!(listener >= 0, "seccomp: {error}");
        OwnedFd::from_raw_fd(listener as i32)
    }
}

/// The next call; none when all threads that are watched have ended.
#[expect(
    unsafe_code,
    reason = "no safe crate has these ioctls; the structures are the kernel's, from libc"
)]
fn receive(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    loop {
        let mut ready = libc::pollfd {
            fd: listener.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure, and it says so; and a structure of zeros, which the
        // kernel demands, is a valid one.
        unsafe {
            libc::poll(&mut ready, 1, -1);
            if ready.revents & libc::POLLIN != 0 {
                let mut call: libc::seccomp_notif = std::mem::zeroed();
                if libc::ioctl(
                    listener.as_raw_fd(),
                    libc::SECCOMP_IOCTL_NOTIF_RECV,
                    &mut call,
                ) == 0
                {
                    return Some(call);
                }
            } else if ready.revents & (libc::POLLHUP | libc::POLLERR) != 0 {
                return None;
            }
        }
    }
}

#[expect(
    unsafe_code,
    reason = "no safe crate has these ioctls; the structures are the kernel's, from libc"
)]
fn answer(listener: &OwnedFd, id: u64, verdict: Verdict) {
    let (error, flags) = match verdict {
        Verdict::Happen => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Verdict::Fail(number) => (-number, 0),
    };
    let mut response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error,
        flags,
    };
    // SAFETY: the kernel reads one structure of this type. That it fails when the
    // thread was killed meanwhile is of no concern.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &mut response,
        );
    }
}
