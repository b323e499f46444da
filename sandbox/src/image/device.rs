//! Loop devices: the kernel's way to use a file as a disk.
//!
//! Each shows its file only as long as somebody uses it (`LO_FLAGS_AUTOCLEAR`), so that none is left over, however meshd ends.
//! Two devices on one file would each keep their own idea of it and destroy it: whoever wants a file shown gets the device
//! that shows it already.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use crate::sys;

/// Somebody else may take a free device first, and then another one is asked for.
const TRIES_MAX: usize = 64;

const CONTROL: &str = "/dev/loop-control";

/// From looking whether a file is shown to showing it, nobody else of this process does.
static SHOWING: Mutex<()> = Mutex::new(());

/// A loop device that shows a file, at least until this is dropped.
#[derive(Debug)]
pub(super) struct LoopDevice {
    device: File,
    pub(super) number: u32,
}

impl LoopDevice {
    /// The device that shows `image`, which is open for reading and writing.
    pub(super) fn of(image: &File) -> io::Result<Self> {
        let _alone = SHOWING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = Self::found(image)? {
            return Ok(found);
        }
        let control = open(CONTROL)?;
        for _ in 0..TRIES_MAX {
            let number = sys::loop_free(control.as_fd())?;
            let device = open(&format!("/dev/loop{number}"))?;
            match sys::loop_configure(device.as_fd(), image.as_fd()) {
                Ok(()) => {
                    return Ok(Self { device, number });
                }
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("no loop device stays free"))
    }

    /// The device that shows it already, if one does. What it shows stays while its descriptor is held.
    pub(super) fn found(image: &File) -> io::Result<Option<Self>> {
        let meta = image.metadata()?;
        let entries = fs::read_dir("/sys/block")?.filter_map(Result::ok);
        for entry in entries.filter(|entry| entry.path().join("loop").exists()) {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("loop"));
            let Some(number) = number.and_then(|number| number.parse().ok()) else {
                continue;
            };
            let path = format!("/dev/loop{number}");
            // What is gone by now shows nothing.
            let Ok(device) = File::open(&path) else {
                continue;
            };
            let same = sys::loop_info(device.as_fd())
                .is_ok_and(|info| (info.device, info.inode) == (meta.dev(), meta.ino()));
            if same {
                // Fails where somebody else has it read-only: no second device is made then. The first descriptor is held
                // until there is this one.
                let device = open(&path)?;
                return Ok(Some(Self { device, number }));
            }
        }
        Ok(None)
    }

    pub(super) fn path(&self) -> String {
        format!("/dev/loop{}", self.number)
    }

    /// Its file has grown.
    pub(super) fn grown(&self) -> io::Result<()> {
        sys::loop_grown(self.device.as_fd())
    }
}

fn open(path: &str) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}
