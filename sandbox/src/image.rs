//! Homes as file systems of their own: an ext4 image for each, as large as the agent's limit of disk, so that the kernel
//! holds the sum of what lies there.
//!
//! ```text
//! <data>/home/images/<type>/<id>.ext4 ── loop device ── detached mount ──► /home/agent in each sandbox of the instance
//! ```
//!
//! The image is sparse and takes of the disk what lies in it; what is removed is given back. It is mounted in the sandbox alone
//! and nowhere on the host: with its last process the mount goes, with the last mount the loop device, whether meshd ends them
//! or is killed itself. Processes of one instance share one file system, whatever its number of mounts.
//!
//! It never shrinks: for a smaller limit ext4 is told to keep the rest for itself. The agent has no way to the image or the
//! device, so what is mounted as root is only ever what mkfs and the kernel wrote.

mod device;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, fchmod, fstat, fstatvfs, openat, renameat_with,
    unlinkat,
};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::probe::Finding;
use crate::spec::Ids;
use crate::sys;
use device::LoopDevice;

/// The smallest image: below it, ext4's own tables leave too little. For a smaller limit the rest is kept from the agent.
const IMAGE_BYTES_MIN: u64 = 16 << 20;

/// ext4's blocks, as they are made here; as large as a page on most machines, and never larger.
const BLOCK_BYTES: u64 = 4096;

/// Bytes of image for each inode. Packages are full of small files.
const INODE_RATIO: &str = "8192";

/// A home with fewer blocks left than this is full: a write that did not fit has left no more.
const FULL_BLOCKS: u64 = 4;

/// ext4 keeps so much for itself unless told otherwise: a fiftieth, and this many blocks at most.
const OWN_BLOCKS_MAX: u64 = 4096;

/// So long a start waits at most for an earlier life's mounts to go, if they are in its way, and looks so often.
const RELEASE_MAX: Duration = Duration::from_secs(1);
const RELEASE_STEP: Duration = Duration::from_millis(5);

/// Where the programs that make and mend file systems are; no search path of anybody's.
const PROGRAM_DIRS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];

/// Tells drafts of one process apart.
static DRAFTS: AtomicU64 = AtomicU64::new(0);

/// A home's image, mounted. The mount is nowhere until a sandbox takes it; dropped, this keeps nothing from being taken apart.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    device: LoopDevice,
    /// The top of its file system.
    top: OwnedFd,
    /// Blocks of the file system, as far as is known.
    blocks: AtomicU64,
}

impl Image {
    /// Mounts the image at `path`, made anew if it is not there, for `bytes` and the user `owner`; beside it the mount, to be put
    /// where it is used.
    pub(crate) fn mount(path: &Path, bytes: u64, owner: Ids) -> io::Result<(Self, OwnedFd)> {
        let (file, new) = match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = make(path, bytes, owner)?;
                (open(path)?, new)
            }
            file => (file?, false),
        };
        let state = await_release(path, &file, bytes / BLOCK_BYTES)?;
        let device = LoopDevice::of(&file)?;
        let mount = attach(&device)?;
        let top = openat(
            &mount,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let seen = fstat(&top)?;
        if seen.st_uid != owner.uid {
            let text = format!("it belongs to user {}, not to {}", seen.st_uid, owner.uid);
            return Err(io::Error::other(text));
        }
        fchmod(&top, Mode::RWXU)?;
        if new {
            // What mkfs makes for repairs, and the agent could not remove.
            unlinkat(&top, "lost+found", AtFlags::REMOVEDIR).ok();
        }
        let image = Self {
            file,
            device,
            top,
            blocks: AtomicU64::new(state.blocks),
        };
        match image.set_bytes(bytes) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(image = %path.display(), %error, "a home stays as large as it was until nobody uses it");
            }
            set => set?,
        }
        Ok((image, mount))
    }

    /// Lets the agent have so many bytes from now on. What lies there beyond stays, and more is refused.
    ///
    /// # Errors
    /// `PermissionDenied` when it is to be larger and meshd may not do that while it is used, for want of `CAP_SYS_RESOURCE`.
    pub(crate) fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        let wanted = bytes / BLOCK_BYTES;
        let blocks = self.blocks.load(Ordering::Relaxed);
        if wanted > blocks {
            if self.file.metadata()?.len() < wanted * BLOCK_BYTES {
                self.file.set_len(wanted * BLOCK_BYTES)?;
            }
            self.device.grown()?;
            sys::ext4_resize(self.top.as_fd(), wanted)?;
            self.blocks.store(wanted, Ordering::Relaxed);
        }
        // What is there without ext4's own tables.
        let beyond = fstatvfs(&self.top)?.f_blocks.saturating_sub(wanted);
        let own = (blocks.max(wanted) / 50).min(OWN_BLOCKS_MAX);
        self.keep(own + beyond, beyond > 0)
    }

    /// Has ext4 keep so many blocks from everybody.
    fn keep(&self, blocks: u64, must: bool) -> io::Result<()> {
        let name = format!("/sys/fs/ext4/loop{}/reserved_clusters", self.device.number);
        let text = blocks.to_string();
        match fs::read_to_string(&name) {
            Ok(now) if now.trim() == text => return Ok(()),
            Ok(_) => {}
            Err(_) if !must => return Ok(()),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
        }
        fs::write(&name, text)
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
    }

    /// What lies in it, when no more fits; else nothing.
    pub(crate) fn full(&self) -> Option<u64> {
        let now = fstatvfs(&self.top).ok()?;
        let full = now.f_bavail < FULL_BLOCKS || now.f_favail == 0;
        full.then(|| (now.f_blocks - now.f_bfree) * now.f_frsize)
    }

    /// The loop device, as the kernel numbers it.
    pub(crate) fn device(&self) -> String {
        const LOOP_MAJOR: u32 = 7;
        format!("{LOOP_MAJOR}:{}", self.device.number)
    }
}

/// Bytes that lie in the home of a running instance, as its file system counts them; none where nobody has it mounted.
///
/// # Errors
/// When the image cannot be read.
pub fn image_usage(path: &Path) -> io::Result<Option<u64>> {
    let Some(device) = LoopDevice::found(&open(path)?)? else {
        return Ok(None);
    };
    let mount = attach(&device)?;
    let now = fstatvfs(&mount)?;
    Ok(Some((now.f_blocks - now.f_bfree) * now.f_frsize))
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn attach(device: &LoopDevice) -> io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", device.path())?;
    fsconfig_set_string(context.as_fd(), "errors", "remount-ro")?;
    // What was removed is given back to the disk below.
    fsconfig_set_flag(context.as_fd(), "discard")?;
    // A sparse file reads as zeroes already; to write them would fill it.
    fsconfig_set_flag(context.as_fd(), "noinit_itable")?;
    fsconfig_create(context.as_fd()).map_err(|errno| {
        let mut said = String::new();
        // The kernel's own words, where it has any.
        let log = context
            .try_clone()
            .map(|log| File::from(log).read_to_string(&mut said));
        let said = log.map_or("", |_| said.trim());
        io::Error::other(format!("mounting it: {errno} {said}"))
    })?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Makes an image, whole or not at all. Answers whether it is this one that is there now.
fn make(path: &Path, bytes: u64, owner: Ids) -> io::Result<bool> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".draft-{}-{number}", std::process::id()));
    let draft = PathBuf::from(draft);
    let made = format(&draft, bytes.max(IMAGE_BYTES_MIN), owner).and_then(|()| {
        // Another process of the instance may have been faster, and then its image is the home.
        match renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    });
    // Gone already when it has its name.
    fs::remove_file(&draft).ok();
    made
}

fn format(draft: &Path, bytes: u64, owner: Ids) -> io::Result<()> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    file.set_len(bytes / BLOCK_BYTES * BLOCK_BYTES)?;
    let owner = format!(
        "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner={}:{}",
        owner.uid, owner.gid
    );
    let block = BLOCK_BYTES.to_string();
    #[rustfmt::skip]
    let args = [
        "-q", "-F", "-m", "0", "-b", &block, "-i", INODE_RATIO, "-I", "256", "-J", "size=4", "-E", &owner,
    ];
    tool("mkfs.ext4", &args, draft, 0)?;
    file.sync_all()
}

/// What ext4's superblock says.
#[derive(Debug, Clone, Copy)]
struct State {
    /// How large it is, in blocks of its own, which are [`BLOCK_BYTES`] in what is made here.
    blocks: u64,
    /// Whether the kernel met errors in it.
    damaged: bool,
}

impl State {
    /// Whether something has to be done while nobody uses it.
    const fn suits(self, wanted: u64) -> bool {
        !self.damaged && self.blocks >= wanted
    }
}

fn state(image: &File) -> io::Result<State> {
    const SUPERBLOCK: u64 = 1024;
    const ERRORS: u8 = 2;
    let mut block = [0; 0x154];
    image.read_exact_at(&mut block, SUPERBLOCK)?;
    let word = |at: usize| u64::from(block[at]) | u64::from(block[at + 1]) << 8;
    let number = |at: usize| word(at) | word(at + 2) << 16;
    Ok(State {
        // `s_blocks_count_lo`, `s_blocks_count_hi`, `s_state`.
        blocks: number(0x4) | number(0x150) << 32,
        damaged: block[0x3A] & ERRORS != 0,
    })
}

/// Mends it and has it grow, if that is needed and as soon as nobody uses it; an earlier life's mounts go in the kernel's own time.
fn await_release(path: &Path, image: &File, wanted: u64) -> io::Result<State> {
    let begun = Instant::now();
    loop {
        let now = state(image)?;
        if now.suits(wanted) {
            return Ok(now);
        }
        if LoopDevice::found(image)?.is_none() {
            return adjust(path, image, now, wanted);
        }
        // Whoever uses it may have seen to it; if not, the kernel is asked while it is used.
        if begun.elapsed() > RELEASE_MAX {
            return Ok(now);
        }
        std::thread::sleep(RELEASE_STEP);
    }
}

/// Mends what can be mended without losing anything, and has the file system be as large as its file is to be.
fn adjust(path: &Path, image: &File, now: State, wanted: u64) -> io::Result<State> {
    if now.damaged {
        tracing::warn!(image = %path.display(), "a home is damaged, as by a full disk below it, and is being repaired");
    }
    tool("e2fsck", &["-p", "-f"], path, 1)?;
    if now.blocks < wanted {
        if image.metadata()?.len() < wanted * BLOCK_BYTES {
            image.set_len(wanted * BLOCK_BYTES)?;
        }
        tool("resize2fs", &[], path, 0)?;
    }
    state(image)
}

/// Runs a program of e2fsprogs on an image.
fn tool(name: &str, args: &[&str], image: &Path, well: i32) -> io::Result<()> {
    let program = program(name).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{name} is not there; install e2fsprogs"),
        )
    })?;
    let output = Command::new(program)
        .args(args)
        .arg(image)
        .env_clear()
        .stdin(Stdio::null())
        .output()?;
    if output.status.code().is_some_and(|code| code <= well) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default();
    Err(io::Error::other(format!(
        "{name}: {}: {said}",
        output.status
    )))
}

fn program(name: &str) -> Option<PathBuf> {
    PROGRAM_DIRS
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// Whether homes can be images in this directory, found by making and mounting one.
pub(crate) fn trial(dir: &Path) -> Finding {
    let missing = |detail: String, remedy: &str| Finding {
        works: false,
        detail,
        remedy: Some(remedy.to_owned()),
    };
    if !rustix::process::geteuid().is_root() {
        return missing(
            "meshd is not root, and mounts no file systems".to_owned(),
            "run meshd as root",
        );
    }
    for name in ["mkfs.ext4", "e2fsck", "resize2fs"] {
        if program(name).is_none() {
            return missing(format!("{name} is not there"), "install e2fsprogs");
        }
    }
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("trial-{}-{number}.ext4", std::process::id()));
    let owner = Ids { uid: 1, gid: 1 };
    let tried = Image::mount(&path, IMAGE_BYTES_MIN, owner);
    fs::remove_file(&path).ok();
    match tried {
        Ok(_) => Finding {
            works: true,
            detail: "ext4 on loop devices".to_owned(),
            remedy: None,
        },
        Err(error) => missing(
            error.to_string(),
            "use a kernel with ext4 and loop devices (`modprobe loop`, CONFIG_BLK_DEV_LOOP), and in a container give it /dev/loop-control, \
             the loop devices and CAP_SYS_ADMIN",
        ),
    }
}

impl Finding {
    /// Nobody asked, so nobody tried.
    pub(crate) fn unasked() -> Self {
        Self {
            works: false,
            detail: "not tried, as sandbox.homes is `directory`".to_owned(),
            remedy: Some("set sandbox.homes to `image`, where meshd is root".to_owned()),
        }
    }
}
