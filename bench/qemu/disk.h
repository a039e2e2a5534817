/* SPDX-License-Identifier: MIT */
/*
 * Holds what the VM writes to a disk during the tentative run.
 *
 *	in QEMU as it starts	device -> NODE -> its file
 *	disk_hold()		device -> ferry-overlay-N -> ferry-base-N -> ferry-base-file-N
 *	disk_take()		device -> ferry-overlay-N -> NODE -> its file
 *	disk_merge()		device -> NODE -> its file
 *
 * The base is the disk, opened read-only and without QEMU's locks, so the source can let its VM run again at any
 * moment. disk_take() opens the disk as QEMU's command line says, which takes its lock: it fails as long as another
 * QEMU writes there. Until disk_merge() has ended, the overlay's file is a part of the disk.
 */
#ifndef BENCH_QEMU_DISK_H
#define BENCH_QEMU_DISK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define QEMU_DISKS 16
#define DISK_OVERLAY "ferry-overlay-" /* the names of overlays begin so */

struct qemu;

/* A node as the command line describes it. */
struct blockdev {
	json_t *o; /* NULL: none */
	bool keys; /* key=value,...: o is flat, and all values are strings */
};

struct qemu_disk {
	char node[32];		      /* which the device has */
	char overlay[200];	      /* the path of its file */
	struct blockdev format, file; /* file: none if it is described within format */
	char file_node[32];
	bool made; /* the overlay's file is there, and is this one: */
	dev_t dev;
	ino_t ino;
	bool taken; /* the disk is open for writing */
};

/*
 * From the text NODE=PATH. Makes the overlay's file, still empty, which must not exist yet: from now on it is ours to
 * remove. After an error, a negative errno, why has a sentence.
 */
int disk_make(struct qemu_disk *d, const char *text, char *why, size_t cap);
/* After disk_make(). QEMU waits for a VM (-incoming defer). After an error m->why has a sentence. */
int disk_hold(struct qemu *m, struct qemu_disk *d);
/* This QEMU is the VM's owner. After an error the VM can go on with the overlay. */
int disk_take(struct qemu *m, struct qemu_disk *d);
/*
 * Merges the overlay while the VM runs, without limit as long as QEMU answers; then removes its file. After an error m->why says
 * what becomes of it.
 */
int disk_merge(struct qemu *m, struct qemu_disk *d);
/* The node that some device has as its drive, and which has this name, or a name that begins so; "" if none has. */
int disk_find(struct qemu *m, const char *name, bool begins, char node[32]);
/* The VM is not this QEMU's, which has ended, or all is merged: removes the overlay's file. */
void disk_drop(struct qemu_disk *d);
void disk_close(struct qemu_disk *d);

#endif
