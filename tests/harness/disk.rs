//! Disks that fail: file systems of their own whose power can be cut, and one that fails a single call.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::skip::{has_program, has_python, is_root, skip};
use crate::wait::eventually;

/// The smallest that `mkfs.xfs` makes is 300 MiB. The file is sparse.
const IMAGE_BYTES: u64 = 320 << 20;
/// No block of a file system is smaller than what is looked at here at once.
const BLOCK_BYTES: usize = 1024;
const EMPTY: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
/// Whoever still has the file system (a sandbox that is coming down) lets go of it within this time.
const RELEASED_MAX: Duration = Duration::from_secs(20);
/// Ends a file system at once, as a power cut does: `_IOR('X', 125, __u32)` of ext4 and xfs, with "no log flush". What was
/// neither synced nor written back is gone, and every call fails until it is mounted again.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// File systems that can be ended like by a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with its defaults.
    Ext4,
    /// ext4 that can encrypt directories, as `mkfs.ext4 -O encrypt` makes it.
    EncryptingExt4,
    /// xfs with its defaults.
    Xfs,
}

impl FileSystem {
    const fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 | Self::EncryptingExt4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }

    const fn features(self) -> &'static [&'static str] {
        match self {
            Self::EncryptingExt4 => &["-O", "encrypt"],
            Self::Ext4 | Self::Xfs => &[],
        }
    }
}

/// A file system in a file, on a loop device, mounted until it is dropped.
#[derive(Debug)]
pub struct LoopDisk {
    device: String,
    place: PathBuf,
    // In memory where there is a place: what is tested is what the file system makes of a cut, not the medium below.
    image: TempDir,
}

/// Runs a command; what it wrote to standard output when it succeeded, else to standard error.
fn run(command: &mut Command) -> Result<String, String> {
    let ran = command.stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if ran.status.success() {
        Ok(text(&ran.stdout))
    } else {
        Err(format!("{command:?}: {}", text(&ran.stderr)))
    }
}

impl LoopDisk {
    /// Makes one and mounts it; says that the test is skipped where that cannot be done.
    pub fn mount(test: &str, kind: FileSystem) -> Option<Self> {
        if !is_root() {
            skip(test, "mounting takes root");
            return None;
        }
        if !has_python(test) || !has_program(test, kind.mkfs()) || !has_program(test, "losetup") {
            return None;
        }
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.expect("a directory for the image");
        let (path, place) = (dir.path().join("image"), dir.path().join("disk"));
        let file = File::create(&path).expect("an image");
        file.set_len(IMAGE_BYTES).expect("an image of that size");
        let mkfs = &mut Command::new(kind.mkfs());
        run(mkfs.args(kind.features()).arg("-q").arg(&path)).expect("a file system");
        let device = match run(Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&path))
        {
            Ok(device) => device,
            Err(reason) => {
                skip(test, &format!("no loop device: {reason}"));
                return None;
            }
        };
        fs::create_dir(&place).expect("a mount point");
        let disk = Self {
            device,
            place,
            image: dir,
        };
        if let Err(reason) = disk.try_mount() {
            skip(test, &format!("it cannot be mounted: {reason}"));
            return None;
        }
        Some(disk)
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// All bytes of the device but its empty blocks, as whoever takes the disk out of the machine reads them.
    #[track_caller]
    pub fn raw(&self) -> Vec<u8> {
        run(&mut Command::new("sync")).expect("what is in memory gets to the disk");
        let raw = fs::read(self.image.path().join("image")).expect("the image");
        let filled = raw.chunks(BLOCK_BYTES).filter(|block| *block != EMPTY);
        filled.flatten().copied().collect()
    }

    /// Takes the file system away and brings it back, as the machine's next start does.
    #[track_caller]
    pub fn mount_again(&self) {
        eventually("the file system is released", RELEASED_MAX, || {
            run(Command::new("umount").arg(&self.place))
        });
        self.try_mount().expect("it is mounted again");
    }

    fn try_mount(&self) -> Result<(), String> {
        let mount = &mut Command::new("mount");
        run(mount.arg(&self.device).arg(&self.place)).map(drop)
    }

    /// Cuts the power: from now on every call fails.
    #[track_caller]
    pub fn cut(&self) {
        let cut = run(Command::new("python3")
            .args(["-c", SHUTDOWN])
            .arg(&self.place));
        cut.expect("the file system ends");
    }

    /// Brings it back after a cut, from what is on the device alone.
    #[track_caller]
    pub fn replay(&self) {
        eventually("the file system is released", RELEASED_MAX, || {
            run(Command::new("umount").arg(&self.place))
        });
        // A mount that somebody else has left keeps the file system as it is, ended: then it is not replayed yet.
        eventually("the file system is replayed", RELEASED_MAX, || {
            self.try_mount()?;
            // XFS refuses the first, ext4 only the second, where the directory is still in memory.
            let looked = fs::read_dir(&self.place)
                .and_then(|_| fs::File::open(&self.place))
                .and_then(|place| place.sync_all());
            looked.map_err(|error| {
                let back = run(Command::new("umount").arg(&self.place));
                format!("{error}; {back:?}")
            })
        });
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        drop(run(Command::new("umount").arg("-l").arg(&self.place)));
        drop(run(Command::new("losetup").arg("-d").arg(&self.device)));
    }
}

/// The library to preload for a disk that fails a single call (`shims/disk.c`); says that the test is skipped where there
/// is no C compiler.
pub fn shim(test: &str) -> Option<&'static Path> {
    static BUILT: Built = OnceLock::new();
    compiled(test, &BUILT, "disk.c", &["-shared", "-fPIC"])
}

/// The program that runs another one without some system calls (`shims/deny.c`); says that the test is skipped where there
/// is no C compiler, or where this process cannot do that.
pub fn deny(test: &str) -> Option<&'static Path> {
    static BUILT: Built = OnceLock::new();
    if !is_root() {
        skip(test, "only root can deny system calls and nothing else");
        return None;
    }
    let program = compiled(test, &BUILT, "deny.c", &[])?;
    match run(Command::new(program).args(["filters", "--", "true"])) {
        Ok(_) => Some(program),
        Err(reason) => {
            skip(test, &format!("no filter can be installed: {reason}"));
            None
        }
    }
}

/// What a shim was built to, with the directory that it lies in; or why not.
type Built = OnceLock<Result<(TempDir, PathBuf), String>>;

fn compiled(
    test: &str,
    built: &'static Built,
    source: &str,
    flags: &[&str],
) -> Option<&'static Path> {
    let built = built.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Other users may run it.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), open).expect("its mode");
        let output = dir.path().join("shim");
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("shims")
            .join(source);
        let cc = &mut Command::new("cc");
        cc.args(flags).args(["-O1", "-Wall", "-Werror", "-o"]);
        let compiled = run(cc.arg(&output).arg(source));
        compiled.map(|_| (dir, output))
    });
    match built {
        Ok((_, output)) => Some(output),
        Err(reason) => {
            skip(test, &format!("the shim does not build: {reason}"));
            None
        }
    }
}
