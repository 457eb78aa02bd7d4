//! A page of a map that is no longer to be had — the file was cut short, the disk or a mount failed — is a SIGBUS to
//! whoever touches it. While [`LostPages`] is armed, that becomes zeros and a flag, which is read when the bytes were used.
//!
//! All of the handler is async-signal-safe: it reads a static table of atomics and makes system calls, nothing else.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_void, sigaction, siginfo_t};

/// How many maps are watched at once; files beyond these are read instead.
const MOST: usize = 4096;

/// A place of the table. `end` is 0 while the rest is being written, so that the handler never sees half a map.
struct Place {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicBool,
}

static PLACES: [Place; MOST] = [const {
    Place {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; MOST];

/// A map in the table, until dropped.
#[derive(Debug)]
pub(super) struct Watched {
    place: usize,
}

impl Watched {
    /// Watches the map at this address; nothing where the table is full.
    pub(super) fn new(start: usize, length: usize) -> Option<Self> {
        let free = |place: &Place| !place.taken.swap(true, Ordering::AcqRel);
        let place = PLACES.iter().position(free)?;
        PLACES[place].lost.store(false, Ordering::Relaxed);
        PLACES[place].start.store(start, Ordering::Relaxed);
        PLACES[place].end.store(start + length, Ordering::Release);
        Some(Self { place })
    }

    /// Whether a page of it was lost.
    pub(super) fn lost(&self) -> bool {
        PLACES[self.place].lost.load(Ordering::Acquire)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        PLACES[self.place].end.store(0, Ordering::Release);
        PLACES[self.place].taken.store(false, Ordering::Release);
    }
}

/// The handler of lost pages, in place until dropped. May be armed several times at once.
#[derive(Debug)]
pub struct LostPages {
    _private: (),
}

/// Who armed, and what stood there before.
struct Armed {
    count: usize,
    before: Option<sigaction>,
    /// Someone put their handler over ours and may call ours from it.
    buried: bool,
}

static ARMED: Mutex<Armed> = Mutex::new(Armed { count: 0, before: None, buried: false });

/// What the handler passes foreign signals to: `sa_sigaction` and `sa_flags`.
static NEXT: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static NEXT_FLAGS: AtomicI32 = AtomicI32::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);

impl LostPages {
    /// Puts the handler in place.
    #[must_use]
    pub fn arm() -> Self {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        armed.count += 1;
        if armed.count == 1 {
            PAGE.store(page_size(), Ordering::Relaxed);
            let before = current();
            // A buried handler is called by the one before: passing on to that would never end.
            if !armed.buried && before.sa_sigaction != ours().sa_sigaction {
                NEXT_FLAGS.store(before.sa_flags, Ordering::Relaxed);
                NEXT.store(before.sa_sigaction, Ordering::Release);
            }
            set(&ours());
            armed.before = Some(before);
        }
        Self { _private: () }
    }
}

impl Drop for LostPages {
    fn drop(&mut self) {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        armed.count -= 1;
        if armed.count == 0 {
            // What someone else put over ours stays.
            if current().sa_sigaction == ours().sa_sigaction {
                if let Some(before) = armed.before.take() {
                    set(&before);
                }
            } else {
                armed.buried = true;
            }
        }
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf takes a name and returns a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

fn ours() -> sigaction {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_lost_page;
    let mut ours = empty();
    ours.sa_sigaction = handler as usize;
    // On the alternate stack where the thread has one: a host may give its threads small stacks.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    ours
}

fn empty() -> sigaction {
    // SAFETY: all zeros are a valid `sigaction`: the default action, no signal masked, no flag.
    unsafe { mem::zeroed() }
}

fn current() -> sigaction {
    let mut current = empty();
    // SAFETY: SIGBUS is a signal, a null action changes nothing, and `current` may be written.
    unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut current) };
    current
}

fn set(action: &sigaction) {
    // SAFETY: `action` is our handler, which has the signature that its flags promise and is async-signal-safe, or what
    // the system gave us before.
    unsafe { libc::sigaction(libc::SIGBUS, action, ptr::null_mut()) };
}

extern "C" fn on_lost_page(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the system passes a valid `siginfo_t`; for SIGBUS it holds an address, and for one that a
    // process sent the bytes there are initialised all the same.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let by_access = code > 0;
    if !(by_access && zero_over(address)) {
        pass_on(signal, info, context, by_access);
    }
}

/// Maps zeros over the page where it is one of ours, and says so.
fn zero_over(address: usize) -> bool {
    let Some(place) = PLACES.iter().find(|place| holds(place, address)) else { return false };
    let size = PAGE.load(Ordering::Relaxed);
    let page = address & !(size - 1);
    // Before the zeros are there: another thread that reads them finds the flag set.
    place.lost.store(true, Ordering::SeqCst);
    let errno = io::Error::last_os_error().raw_os_error();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page lies in a map of ours, which is not unmapped before it left the table, and slices of it are only
    // read; so replacing a page that cannot be read takes nothing from anyone.
    let done = unsafe { libc::mmap(page as *mut c_void, size, libc::PROT_READ, flags, -1, 0) };
    restore(errno);
    done != libc::MAP_FAILED
}

fn holds(place: &Place, address: usize) -> bool {
    let end = place.end.load(Ordering::Acquire);
    let start = place.start.load(Ordering::Acquire);
    // Twice, so that start and end are of the same map.
    (start..end).contains(&address) && place.end.load(Ordering::Acquire) == end
}

/// The interrupted code may be about to read it.
fn restore(errno: Option<i32>) {
    if let Some(errno) = errno {
        #[cfg(target_os = "linux")]
        // SAFETY: the address of this thread's errno, always valid.
        unsafe {
            *libc::__errno_location() = errno;
        }
        #[cfg(target_os = "macos")]
        // SAFETY: the address of this thread's errno, always valid.
        unsafe {
            *libc::__error() = errno;
        }
    }
}

/// Does what would have been done without us.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void, by_access: bool) {
    let next = NEXT.load(Ordering::Acquire);
    let with_info = NEXT_FLAGS.load(Ordering::Relaxed) & libc::SA_SIGINFO != 0;
    match next {
        // An access cannot go on: the system ends the process even where the signal is ignored.
        libc::SIG_IGN if !by_access => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            set(&empty());
            // Blocked until we return, then it takes its default action; an access would fault again anyway.
            // SAFETY: raising a signal is async-signal-safe.
            unsafe { libc::raise(signal) };
        }
        _ if with_info => {
            // SAFETY: what was set with SA_SIGINFO is a function of this signature.
            let next: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { mem::transmute(next) };
            next(signal, info, context);
        }
        _ => {
            // SAFETY: what was set without SA_SIGINFO and is no constant is a function of this signature.
            let next: extern "C" fn(c_int) = unsafe { mem::transmute(next) };
            next(signal);
        }
    }
}
