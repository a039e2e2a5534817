// SPDX-License-Identifier: MIT
//! Both ends in one process, as inproc.c, from Rust with nothing but extern "C".
//! rustc inproc.rs -l ferry
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::mem::{size_of, zeroed};
use std::ptr::null_mut;

const LEN: usize = 16 << 20;
const OWNER_TARGET: c_int = 2; // enum ferry_owner: 0 is nobody

#[repr(C)]
struct Session {
    _private: [u8; 0],
}
#[repr(C)]
struct Stream {
    _private: [u8; 0],
}
#[repr(C)]
struct Region {
    gpa: u64,
    len: u64,
    hva: *mut c_void,
    fd: c_int,
    fd_offset: u64,
    id: u32,
    page_shift: u32,
    flags: u32,
    reserved: [u32; 11],
}
#[repr(C)]
struct Section {
    id: u32,
    version: u32,
    data: *const c_void,
    len: usize,
    reserved: [u64; 2],
}
type Op = Option<unsafe extern "C" fn(*mut c_void) -> c_int>;
type StreamOp = Option<unsafe extern "C" fn(*mut c_void, *mut Stream) -> c_int>;
#[repr(C)]
struct Ops {
    size: usize,
    needs: StreamOp,
    reserve: Option<unsafe extern "C" fn(*mut c_void, *mut Region, usize, *mut Stream) -> c_int>,
    dirty_start: Op,
    dirty_stop: Op,
    dirty_fetch: Option<unsafe extern "C" fn(*mut c_void, u32, *mut u64, u64, c_uint) -> c_int>,
    throttle: Option<unsafe extern "C" fn(*mut c_void, c_uint) -> c_int>,
    pause: Op,
    resume: Op,
    save: StreamOp,
    load: StreamOp,
    output_hold: Op,
    output_release: Op,
    activate: Op,
    retire: Op,
    discard: Op,
    // arbiter, event and log follow in C: .size says that this struct ends before them
}
#[repr(C)]
struct Vm {
    size: usize,
    vm: *mut c_void,
    ops: *const Ops,
    regions: *const Region,
    nregions: usize,
}
/// The head of struct ferry_result; the rest is not asked for.
#[repr(C)]
struct Outcome {
    size: usize,
    outcome: c_int,
    owner: c_int,
    claim: c_int,
    phase: c_int,
    reason: c_int,
    error: c_int,
    op: [c_char; 32],
    session: [u8; 16],
    detail: [c_char; 512],
}

#[link(name = "ferry")]
extern "C" {
    fn ferry_version() -> *const c_char;
    fn ferry_owner_name(owner: c_int) -> *const c_char;
    fn ferry_source_new(ret: *mut *mut Session, vm: *const Vm, cfg: *const c_void) -> c_int;
    fn ferry_target_new(ret: *mut *mut Session, vm: *const Vm, cfg: *const c_void) -> c_int;
    fn ferry_open(s: *mut Session, uri: *const c_char) -> c_int;
    fn ferry_run(s: *mut Session, res: *mut Outcome) -> c_int;
    fn ferry_free(s: *mut Session);
    fn ferry_stream_put(out: *mut Stream, id: u32, version: u32, data: *const c_void, len: usize) -> c_int;
    fn ferry_stream_next(input: *mut Stream, sec: *mut Section) -> c_int;
}

/// Zeroed and page aligned, as reserve must give it.
unsafe fn new_ram() -> *mut u8 {
    std::alloc::alloc_zeroed(std::alloc::Layout::from_size_align(LEN, 4096).unwrap())
}

unsafe extern "C" fn ok(_vm: *mut c_void) -> c_int {
    0
}
unsafe extern "C" fn dirty_fetch(_vm: *mut c_void, _region: u32, _bits: *mut u64, _npages: u64, _flags: c_uint) -> c_int {
    0 // nobody writes
}
unsafe extern "C" fn reserve(vm: *mut c_void, regions: *mut Region, n: usize, _needs: *mut Stream) -> c_int {
    if n != 1 || (*regions).len != LEN as u64 {
        return -22;
    }
    let ram = new_ram();
    *(vm as *mut *mut u8) = ram;
    (*regions).hva = ram as *mut c_void;
    0
}
unsafe extern "C" fn save(_vm: *mut c_void, out: *mut Stream) -> c_int {
    ferry_stream_put(out, 1, 1, b"registers".as_ptr() as *const c_void, 9)
}
unsafe extern "C" fn load(_vm: *mut c_void, input: *mut Stream) -> c_int {
    let mut sec: Section = zeroed();
    if ferry_stream_next(input, &mut sec) != 1 || sec.len != 9 {
        return -22;
    }
    ferry_stream_next(input, &mut sec)
}

unsafe fn run(session: *mut Session) -> Outcome {
    let mut res: Outcome = zeroed();
    res.size = size_of::<Outcome>();
    ferry_run(session, &mut res);
    res
}

fn main() {
    unsafe {
        let uri = CString::new("mem:inproc").unwrap();
        let mut ops: Ops = zeroed();
        ops.size = size_of::<Ops>();
        ops.reserve = Some(reserve);
        ops.dirty_start = Some(ok);
        ops.dirty_stop = Some(ok);
        ops.dirty_fetch = Some(dirty_fetch);
        ops.pause = Some(ok);
        ops.resume = Some(ok);
        ops.save = Some(save);
        ops.load = Some(load);
        ops.discard = Some(ok);

        let ram = new_ram();
        for i in (0..LEN).step_by(64) {
            *ram.add(i) = (i >> 12 ^ i) as u8;
        }
        let region = Region { gpa: 0, len: LEN as u64, hva: ram as *mut c_void, fd: -1, fd_offset: 0, id: 0,
                              page_shift: 12, flags: 0, reserved: [0; 11] };
        let mut there: *mut u8 = null_mut();
        let (mut source, mut target) = (null_mut(), null_mut());
        let mut vm = Vm { size: size_of::<Vm>(), vm: &mut there as *mut _ as *mut c_void, ops: &ops,
                          regions: std::ptr::null(), nregions: 0 };
        assert_eq!(ferry_target_new(&mut target, &vm, std::ptr::null()), 0);
        assert_eq!(ferry_open(target, uri.as_ptr()), 0);
        vm.regions = &region;
        vm.nregions = 1;
        assert_eq!(ferry_source_new(&mut source, &vm, std::ptr::null()), 0);
        assert_eq!(ferry_open(source, uri.as_ptr()), 0);

        let at = target as usize;
        let other = std::thread::spawn(move || run(at as *mut Session).owner);
        let res = run(source);
        let owner = other.join().unwrap();
        let same = !there.is_null() && std::slice::from_raw_parts(ram, LEN) == std::slice::from_raw_parts(there, LEN);
        println!("libferry {}: {}; owner {}; memory {}", CStr::from_ptr(ferry_version()).to_str().unwrap(),
                 CStr::from_ptr(res.detail.as_ptr()).to_str().unwrap(),
                 CStr::from_ptr(ferry_owner_name(owner)).to_str().unwrap(),
                 if same { "is the same" } else { "differs" });
        ferry_free(source);
        ferry_free(target);
        std::process::exit(if same && owner == OWNER_TARGET { 0 } else { 1 });
    }
}
