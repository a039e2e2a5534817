/* SPDX-License-Identifier: MIT */
/*
 * An arbiter on a shared directory: implements ferry_ops.arbiter for two hosts that mount the same file
 * system (NFS, OCFS2, GFS2, CephFS ...), or for one host. The first caller decides: link(2) creates the
 * record atomically, and it is on stable storage before the call returns. The caller needs no lock and keeps
 * no state.
 *
 * The record of a migration is the file SESSION.owner. Its two lines hold "source" or "target", and the
 * session in 32 hexadecimal digits. The record stays: delete it only after both ends have ended.
 *
 *	static int my_arbiter(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
 *	{
 *		struct ferry_arbiter_file a = { .size = sizeof(a), .dir = "/shared/ferry" };
 *		char why[FERRY_DETAIL_MAX];
 *		int err = ferry_arbiter_file_ask(&a, session, want, is, why, sizeof(why));
 *
 *		if (err)
 *			my_log(vm, why);
 *		return err;
 *	}
 */
#ifndef FERRY_ARBITER_FILE_H
#define FERRY_ARBITER_FILE_H

#include <ferry/ferry.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ferry_arbiter_file {
	size_t size;
	const char *dir;     /* an existing directory, the same one on both hosts, writable from both */
	uint64_t timeout_us; /* bound on waiting for the file server; default 3 s */
};

/*
 * If nothing is recorded for session, record want (FERRY_OWNER_SOURCE or FERRY_OWNER_TARGET). Set *is to the
 * recorded owner. Any thread. On failure *is is untouched and why (cap bytes) holds one sentence: -EINVAL;
 * -EPERM or -EOPNOTSUPP (the file system has no hard links); -EPROTO (the record is not ferry's); -ETIMEDOUT;
 * or the file system's error (-ENOENT, -EACCES, -ENOSPC, -EROFS ...). A call that timed out may still record
 * want when the file server answers again: if you ask again then, you get the owner that stands.
 */
int ferry_arbiter_file_ask(const struct ferry_arbiter_file *a, const uint8_t session[16],
			   enum ferry_owner want, enum ferry_owner *is, char *why, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
