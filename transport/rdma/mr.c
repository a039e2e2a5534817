// SPDX-License-Identifier: MIT
/*
 * Registered memory of a link. expose() and lend() each set what they need, and apply() makes the difference:
 * it first deregisters what is no longer wanted, then narrows what is wanted with less access, then registers
 * what is new. Where the device can, narrowing changes the registration in place, so that the downtime does
 * not pay for pinning.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rdma.h"
#include "runtime/base/fail.h"

#define WRITABLE (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

static struct xr_link *link_of(struct xport_link *l)
{
	return (struct xr_link *)l;
}

int xr_mr_access(const struct xr_link *l, enum xport_access access, bool landing)
{
	int a = l->opt.pin == XR_PIN_ODP ? IBV_ACCESS_ON_DEMAND : 0;

	if (access & XPORT_PEER_READ)
		a |= IBV_ACCESS_REMOTE_READ;
	if (access & XPORT_PEER_WRITE)
		a |= WRITABLE;
	if (landing)
		a |= IBV_ACCESS_LOCAL_WRITE;
	/* On iWARP the answer to a READ is a remote write to the requester. */
	if (landing && l->ctx->device->transport_type == IBV_TRANSPORT_IWARP)
		a |= IBV_ACCESS_REMOTE_WRITE;
	return a;
}

static bool may_lock(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = { { 0 } };

	return !syscall(SYS_capget, &h, d) && d[0].effective & (1u << CAP_IPC_LOCK);
}

/* Bytes of this process that devices have pinned already. */
static uint64_t pinned_now(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kb = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "VmPin: %llu", &kb) != 1)
		;
	if (f)
		fclose(f);
	return kb << 10;
}

static int too_little(struct xr_link *l, uint64_t bytes, uint64_t limit, uint64_t pinned, struct fail *f)
{
	uint64_t need = (pinned + bytes + (UINT64_C(1) << 20) - 1) >> 20;

	return fail(f, -ENOMEM,
		    "rdma: %" PRIu64 " MiB of memory must be pinned for %s, and RLIMIT_MEMLOCK is %" PRIu64
		    " MiB; raise it to "
		    "%" PRIu64 " MiB or more (ulimit -l %" PRIu64
		    ", LimitMEMLOCK=), give CAP_IPC_LOCK, or use pin=lazy",
		    (bytes + (UINT64_C(1) << 20) - 1) >> 20, l->ctx->device->name, limit >> 20, need,
		    need << 10);
}

int xr_fits(struct xport_link *xl, uint64_t bytes)
{
	struct xr_link *l = link_of(xl);
	uint64_t pinned = pinned_now();
	struct rlimit lim;

	if (l->opt.pin != XR_PIN_ALL)
		return 0;
	if (bytes > l->attr.max_mr_size)
		return fail(xl->fail, -EFBIG,
			    "rdma: %s registers at most %" PRIu64 " bytes at once; use pin=lazy",
			    l->ctx->device->name, l->attr.max_mr_size);
	if (may_lock() || getrlimit(RLIMIT_MEMLOCK, &lim) || lim.rlim_cur == RLIM_INFINITY ||
	    pinned + bytes <= lim.rlim_cur)
		return 0;
	return too_little(l, bytes, lim.rlim_cur, pinned, xl->fail);
}

int xr_mr_reg(struct xr_link *l, void *base, uint64_t len, int access, struct ibv_mr **ret, struct fail *f)
{
	struct rlimit lim = { RLIM_INFINITY, RLIM_INFINITY };
	struct ibv_mr *mr = ibv_reg_mr(l->pd, base, len, access);
	int err = errno;

	if (mr) {
		*ret = mr;
		return 0;
	}
	getrlimit(RLIMIT_MEMLOCK, &lim);
	if (err == ENOMEM && !may_lock() && lim.rlim_cur != RLIM_INFINITY)
		return too_little(l, len, lim.rlim_cur, pinned_now(), f);
	return fail_cure(f, CURE_RDMA_REGISTER, -err, "rdma: %s does not register %" PRIu64 " bytes at %p",
			 l->ctx->device->name, len, base);
}

static int want(struct xr_link *l, void *base, uint64_t len, int access, bool lent)
{
	struct xr_mr *more;
	size_t i;

	for (i = 0; i < l->nmr; i++) {
		struct xr_mr *m = &l->mr[i];

		if (m->base != base || m->len != len)
			continue;
		m->want = m->want < 0 ? access : m->want | access;
		m->lent |= lent;
		return 0;
	}
	more = realloc(l->mr, (l->nmr + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	l->mr = more;
	l->mr[l->nmr++] = (struct xr_mr){ .base = base, .len = len, .want = access, .lent = lent };
	return 0;
}

static int want_all(struct xr_link *l)
{
	size_t i;
	int err = 0;

	for (i = 0; i < l->nmr; i++) {
		l->mr[i].want = -1;
		l->mr[i].lent = false;
	}
	if (l->opt.pin == XR_PIN_LAZY)
		return 0;
	for (i = 0; i < l->table.n && !err; i++) {
		const struct xport_region *r = &l->table.r[i];

		if (r->base && r->npages)
			err = want(l, r->base, r->npages << PAGE_SHIFT,
				   xr_mr_access(l, l->table.access, false), false);
	}
	for (i = 0; i < l->nlent && !err; i++)
		if (l->lent[i].iov_len)
			err = want(l, l->lent[i].iov_base, l->lent[i].iov_len,
				   xr_mr_access(l, XPORT_LOCAL, true), true);
	return err;
}

static void drop(struct xr_mr *m)
{
	if (m->mr)
		ibv_dereg_mr(m->mr);
	m->mr = NULL;
}

/* Memory that is pinned for reading cannot become writable in place. */
static bool change_in_place(struct xr_link *l, struct xr_mr *m)
{
	return (!(m->want & WRITABLE) || m->access & WRITABLE) &&
	       !ibv_rereg_mr(m->mr, IBV_REREG_MR_CHANGE_ACCESS, l->pd, m->base, m->len, m->want);
}

/* Deregister first, then register; on failure nothing is registered. */
static int apply(struct xr_link *l)
{
	size_t i, n = 0;
	int err = want_all(l);

	for (i = 0; i < l->nmr; i++) {
		struct xr_mr *m = &l->mr[i];

		if (m->want < 0 || err)
			drop(m);
		else if (m->mr && m->access != m->want && !change_in_place(l, m))
			drop(m);
	}
	for (i = 0; i < l->nmr && !err; i++) {
		struct xr_mr *m = &l->mr[i];

		if (m->want >= 0 && !m->mr)
			err = xr_mr_reg(l, m->base, m->len, m->want, &m->mr, l->link.fail);
		m->access = m->want;
	}
	for (i = 0; i < l->nmr; i++) {
		if (err)
			drop(&l->mr[i]);
		if (l->mr[i].mr)
			l->mr[n++] = l->mr[i];
	}
	l->nmr = n;
	return err;
}

static uint32_t rkey_of(const struct xr_link *l, const struct xport_region *r)
{
	size_t i;

	for (i = 0; i < l->nmr; i++)
		if (l->mr[i].base == r->base && l->mr[i].len == r->npages << PAGE_SHIFT)
			return l->mr[i].mr->rkey;
	return 0;
}

static int send_keys(struct xr_link *l)
{
	struct rdma_keys head = { .access = htole32(l->table.access),
				  .nregions = htole32((uint32_t)l->table.n),
				  .chunk_shift = htole32(l->opt.pin == XR_PIN_LAZY ? RDMA_CHUNK_SHIFT : 0) };
	struct rdma_key *k = calloc(l->table.n + 1, sizeof(*k));
	struct iovec iov[2] = { { &head, sizeof(head) }, { k, l->table.n * sizeof(*k) } };
	size_t i;
	int err;

	if (!k)
		return -ENOMEM;
	for (i = 0; i < l->table.n; i++) {
		const struct xport_region *r = &l->table.r[i];

		k[i] = (struct rdma_key){ .id = htole32(r->id),
					  .page_shift = htole32(PAGE_SHIFT),
					  .npages = htole64(r->npages) };
		if (!r->base || !l->table.access)
			continue; /* do not disclose an address that the peer cannot use */
		k[i].flags = htole32(1);
		k[i].addr = htole64((uintptr_t)r->base);
		k[i].rkey = htole32(rkey_of(l, r));
	}
	err = xr_send_message(l, RDMA_KEYS, iov, 2);
	free(k);
	return err;
}

int xr_expose(struct xport_link *xl, const struct xport_region *r, size_t n, enum xport_access access)
{
	struct xr_link *l = link_of(xl);
	int err;

	if (n > RDMA_KEYS_MAX)
		return -EINVAL;
	if (n && xr_broken(l))
		return xr_broken(l);
	pthread_mutex_lock(&l->lock);
	xr_pin_drop_far(l);
	err = xp_table_set(&l->table, r, n, access);
	pthread_mutex_unlock(&l->lock);
	xr_pin_drop_near(l);
	if (!err)
		err = apply(l);
	if (err) {
		pthread_mutex_lock(&l->lock);
		xp_table_clear(&l->table);
		pthread_mutex_unlock(&l->lock);
		l->nlent = 0;
		return err;
	}
	err = xr_broken(l) ? -EPIPE : send_keys(l);
	return n ? err : 0;
}

int xr_lend(struct xport_link *xl, const struct iovec *mem, size_t n)
{
	struct xr_link *l = link_of(xl);
	struct iovec *copy = calloc(n + 1, sizeof(*copy));
	int err;

	if (!copy)
		return -ENOMEM;
	if (n)
		memcpy(copy, mem, n * sizeof(*copy));
	free(l->lent);
	l->lent = copy;
	l->nlent = n;
	xr_pin_drop_near(l);
	err = apply(l);
	if (err) {
		l->nlent = 0;
		pthread_mutex_lock(&l->lock);
		xp_table_clear(&l->table);
		pthread_mutex_unlock(&l->lock);
	}
	return err;
}

static bool within(const void *addr, const void *base, uint64_t len, uint64_t *off)
{
	*off = (uintptr_t)addr - (uintptr_t)base;
	return *off < len;
}

bool xr_mr_find(struct xr_link *l, const void *addr, bool landing, uint32_t *lkey, uint64_t *span)
{
	uint64_t off;
	size_t i;

	for (i = 0; i < l->nmr; i++) {
		const struct xr_mr *m = &l->mr[i];

		if ((landing && !m->lent) || !within(addr, m->base, m->len, &off))
			continue;
		*lkey = m->mr->lkey;
		*span = m->len - off;
		return true;
	}
	return false;
}

static void cut_chunk(uint8_t *from, uint64_t len, uint64_t off, uint8_t **base, uint64_t *ret)
{
	uint64_t first = off & ~((UINT64_C(1) << RDMA_CHUNK_SHIFT) - 1), size = UINT64_C(1)
										<< RDMA_CHUNK_SHIFT;

	*base = from + first;
	*ret = size < len - first ? size : len - first;
}

bool xr_mr_chunk(struct xr_link *l, const void *addr, bool landing, uint8_t **base, uint64_t *len)
{
	uint64_t off;
	size_t i;

	for (i = 0; !landing && i < l->table.n; i++) {
		const struct xport_region *r = &l->table.r[i];

		if (r->base && within(addr, r->base, r->npages << PAGE_SHIFT, &off)) {
			cut_chunk(r->base, r->npages << PAGE_SHIFT, off, base, len);
			return true;
		}
	}
	for (i = 0; landing && i < l->nlent; i++) {
		if (within(addr, l->lent[i].iov_base, l->lent[i].iov_len, &off)) {
			cut_chunk(l->lent[i].iov_base, l->lent[i].iov_len, off, base, len);
			return true;
		}
	}
	return false;
}

int xr_keys_take(struct xr_link *l, const struct xr_message *m)
{
	struct xport_region *r = NULL;
	struct rdma_keys h = { .access = 0 };
	uint32_t *rkey = NULL;
	size_t i, n;
	int err;

	memcpy(&h, m->body, m->len < sizeof(h) ? m->len : sizeof(h));
	n = le32toh(h.nregions);
	if (m->len < sizeof(h) || n > RDMA_KEYS_MAX || m->len != sizeof(h) + n * sizeof(struct rdma_key) ||
	    le32toh(h.access) > (XPORT_PEER_READ | XPORT_PEER_WRITE) || h.reserved ||
	    (h.chunk_shift && le32toh(h.chunk_shift) != RDMA_CHUNK_SHIFT))
		return fail(l->link.fail, -EPROTO,
			    "rdma: the peer's KEYS of %zu bytes say %zu regions, access %u, chunks of "
			    "1 << %u bytes",
			    m->len, n, le32toh(h.access), le32toh(h.chunk_shift));
	r = calloc(n + 1, sizeof(*r));
	rkey = calloc(n + 1, sizeof(*rkey));
	err = r && rkey ? 0 : -ENOMEM;
	for (i = 0; !err && i < n; i++) {
		struct rdma_key k;

		memcpy(&k, m->body + sizeof(h) + i * sizeof(k), sizeof(k));
		if (le32toh(k.page_shift) != PAGE_SHIFT)
			err = fail(l->link.fail, -EPROTO,
				   "rdma: the peer's region %u has pages of 1 << %u bytes; they are of 1 << %u",
				   le32toh(k.id), le32toh(k.page_shift), PAGE_SHIFT);
		rkey[i] = le32toh(k.rkey);
		r[i] = (struct xport_region){ .id = le32toh(k.id),
					      .npages = le64toh(k.npages),
					      .base = k.flags ? (void *)(uintptr_t)le64toh(k.addr) : NULL };
	}
	if (!err)
		err = xp_table_set(&l->keys.table, r, n, (enum xport_access)le32toh(h.access));
	free(r);
	if (!err) {
		free(l->keys.rkey);
		l->keys.rkey = rkey;
		l->keys.chunk_shift = le32toh(h.chunk_shift);
		l->keys.seq += n || l->keys.seq; /* an empty first KEYS does not count as an expose */
		return 0;
	}
	free(rkey);
	return fail(l->link.fail, err == -EINVAL ? -EPROTO : err,
		    "rdma: the peer's KEYS of %zu regions cannot be: one has a size that no memory has", n);
}

void xr_mr_free(struct xr_link *l)
{
	size_t i;

	xr_pin_drop_near(l);
	xr_pin_drop_far(l);
	for (i = 0; i < l->nmr; i++)
		drop(&l->mr[i]);
	free(l->mr);
	l->mr = NULL;
	l->nmr = 0;
}
