// SPDX-License-Identifier: MIT
/* What does not go with --vmm own or --vmm qemu. */
#include <errno.h>

#include "options_int.h"
#include "bench/qemu/command.h"

static int refuse(const char *text)
{
	fprintf(stderr, "rdma-migrate: %s.\n", text);
	return -EINVAL;
}

static int check_target(const struct options *o)
{
	char why[400];

	if (!o->qmp && (!o->qemu || !o->qemu[0]))
		return refuse(
			"target --vmm qemu needs the source's QEMU command line after --, or --qmp SOCKET of a "
			"QEMU that waits for a VM (-S -incoming defer)");
	if (o->qmp && o->qemu)
		return refuse("target takes --qmp SOCKET, or a QEMU command line after --, but not both");
	return o->qemu && command_check(o->qemu, why, sizeof(why)) ? refuse(why) : 0;
}

int check_vmm(const struct options *o)
{
	char text[200];

	if (o->vmm == VM_OWN) {
		if (!o->qemu_only && !o->qemu)
			return 0;
		snprintf(text, sizeof(text), "%s%s is about a QEMU: give --vmm qemu, too",
			 o->qemu_only ? "--" : "a command line after --", o->qemu_only ? o->qemu_only : "");
		return refuse(text);
	}
	if (o->own_only) {
		snprintf(text, sizeof(text),
			 "--%s is about the bench's own guest; with --vmm qemu QEMU's command line decides it",
			 o->own_only);
		return refuse(text);
	}
	if (o->command == CMD_TARGET)
		return check_target(o);
	return o->qmp ? 0
		      : refuse("source --vmm qemu needs --qmp SOCKET, a monitor of the QEMU that runs the VM");
}
