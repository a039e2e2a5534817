/* SPDX-License-Identifier: MIT */
/* The command line of a target's QEMU: what the source's becomes, and which are refused. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "bench/qemu/command.h"

#define DIR "/dev/shm/ferry-qemu.test"
#define MAX 16

static char why[400];

static int make(struct qemu_args *c, const char *const *args)
{
	char *copy[MAX] = { NULL };

	for (size_t i = 0; args[i]; i++)
		copy[i] = (char *)(uintptr_t)args[i];
	why[0] = 0;
	return command_make(c, copy, DIR, DIR "/qmp", why, sizeof(why));
}

static void becomes(const char *value, const char *is)
{
	struct qemu_args c;
	const char *const args[] = { "qemu", "-object", value, "-m", "64", NULL };

	cr_assert_eq(make(&c, args), 0, "%s", why);
	cr_assert_str_eq(c.args[2], is);
	cr_assert_str_eq(c.args[4], "64");
	command_free(&c);
}

static void refused(const char *const *args, const char *says)
{
	struct qemu_args c;

	cr_assert_lt(make(&c, args), 0);
	cr_assert(strstr(why, says), "\"%s\" does not say \"%s\"", why, says);
	command_free(&c);
}

Test(command, the_ram_gets_a_file_of_its_own)
{
	becomes("memory-backend-file,id=ram,mem-path=/dev/shm/vm1.ram,share=on",
		"memory-backend-file,id=ram,mem-path=" DIR "/ram0,share=on");
	becomes("qom-type=memory-backend-file,mem-path=/dev/shm/vm1.ram",
		"qom-type=memory-backend-file,mem-path=" DIR "/ram0");
}

Test(command, a_doubled_comma_does_not_end_a_path)
{
	becomes("memory-backend-file,id=a,,mem-path=x,mem-path=/dev/shm/a,,b=c,size=64M",
		"memory-backend-file,id=a,,mem-path=x,mem-path=" DIR "/ram0,size=64M");
}

Test(command, json_as_libvirt_writes_it)
{
	becomes("{\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\",\"mem-path\":\"/dev/shm/x\",\"share\":true}",
		"{\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\",\"mem-path\":\"" DIR
		"/ram0\",\"share\":true}");
}

Test(command, other_objects_stay)
{
	struct qemu_args c;
	const char *const args[] = { "qemu",
				     "-object",
				     "iothread,id=mem-path=memory-backend-file",
				     "--object",
				     "memory-backend-file,id=a,mem-path=/dev/shm/a",
				     "-object",
				     "memory-backend-file,id=b,mem-path=/dev/shm/b",
				     NULL };

	cr_assert_eq(make(&c, args), 0, "%s", why);
	cr_assert_str_eq(c.args[2], args[2]);
	cr_assert_str_eq(c.args[4], "memory-backend-file,id=a,mem-path=" DIR "/ram0");
	cr_assert_str_eq(c.args[6], "memory-backend-file,id=b,mem-path=" DIR "/ram1");
	cr_assert_eq(c.nfile, 2);
	command_free(&c);
}

Test(command, it_waits_for_a_vm_and_has_a_monitor)
{
	const char *const args[] = { "qemu", "-object", "memory-backend-file,mem-path=/dev/shm/a", NULL };
	const char *const added[] = { "-S", "-incoming", "defer", "-qmp",
				      "unix:" DIR "/qmp,server=on,wait=off" };
	struct qemu_args c;

	cr_assert_eq(make(&c, args), 0, "%s", why);
	for (size_t i = 0; i < sizeof(added) / sizeof(added[0]); i++)
		cr_assert_str_eq(c.args[3 + i], added[i]);
	cr_assert_null(c.args[8]);
	command_free(&c);
}

Test(command, what_cannot_become_a_target)
{
	const char *const object = "memory-backend-file,mem-path=/dev/shm/a";

	refused((const char *const[]){ "qemu", "-object", object, "--daemonize", NULL },
		"takes no --daemonize");
	refused((const char *const[]){ "qemu", "-object", object, "-incoming", "defer", NULL },
		"leave -incoming out");
	refused((const char *const[]){ "qemu", "-object", object, "-loadvm", "x", NULL },
		"leave -loadvm out");
	refused((const char *const[]){ "qemu", "-m", "64", NULL }, "has no RAM in a file");
	refused((const char *const[]){ "qemu", "-object", "memory-backend-filesystem,id=a", NULL },
		"has no RAM in a file");
	refused((const char *const[]){ "qemu", "-object", "memory-backend-file,id=a", NULL },
		"has no mem-path");
	refused((const char *const[]){ "qemu", "-object", "{\"qom-type\":\"memory-backend-file\"", NULL },
		"has no mem-path");
}

/* ---- the options of a disk ---- */

static void has_key(const char *value, const char *key, const char *is)
{
	json_t *o = command_keys(value, "driver");
	const char *got = json_string_value(json_object_get(o, key));

	cr_expect_str_eq(got ? got : "none", is, "%s of %s", key, value);
	json_decref(o);
}

Test(keys, of_a_disk)
{
	has_key("file,node-name=f0,filename=/a,,b,,.raw,cache.direct=on", "driver", "file");
	has_key("file,node-name=f0,filename=/a,,b,,.raw,cache.direct=on", "filename", "/a,b,.raw");
	has_key("file,node-name=f0,filename=/a,,b,,.raw,cache.direct=on", "cache.direct", "on");
	has_key("node-name=f0,driver=raw", "driver", "raw");
	has_key("raw,node-name=f0,node-name=f1", "node-name", "f1");
	has_key("raw,filename=a=b", "filename", "a=b");
	has_key("raw,filename=", "filename", "");
}

Test(keys, what_is_none)
{
	cr_expect_null(command_keys("raw,read-only", "driver"));
	cr_expect_null(command_keys("raw,filename=\xff", "driver"), "no UTF-8");
}
