/* SPDX-License-Identifier: MIT */
/* doctor: limits and resources of the host: memory, RDMA devices, network, programs. */
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef FERRY_HAVE_VERBS
#include <infiniband/verbs.h>
#endif

#include "doctor.h"

/* Reads the first line of the file, without the newline. */
static const char *first_line(const char *path, char *buf, size_t cap)
{
	FILE *in = fopen(path, "re");

	buf[0] = 0;
	if (in && !fgets(buf, (int)cap, in))
		buf[0] = 0;
	if (in)
		fclose(in);
	buf[strcspn(buf, "\n")] = 0;
	return buf;
}

/* --- memory --- */

/* Whether the process may lock any amount of memory: CAP_IPC_LOCK is bit 14. */
static bool may_lock(void)
{
	unsigned long long caps = 0;
	char line[256];
	FILE *in = fopen("/proc/self/status", "re");

	while (in && fgets(line, sizeof(line), in)) {
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			break;
	}
	if (in)
		fclose(in);
	return caps >> 14 & 1;
}

static void probe_memlock(struct findings *f)
{
	struct rlimit r = { 0 };

	getrlimit(RLIMIT_MEMLOCK, &r);
	if (r.rlim_cur == RLIM_INFINITY)
		found(f, "memlock", HEALTH_OK, NULL, "unlimited");
	else if (may_lock())
		found(f, "memlock", HEALTH_OK, NULL, "%llu KiB, which CAP_IPC_LOCK lifts",
		      (unsigned long long)r.rlim_cur >> 10);
	else
		found(f, "memlock", HEALTH_WITHOUT, "ulimit -l unlimited",
		      "%llu KiB: RDMA can pin no more of the guest's memory",
		      (unsigned long long)r.rlim_cur >> 10);
}

static void probe_huge(struct findings *f)
{
	char total[64], unused[64], promised[64], thp[128], *mode, *end;

	first_line("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", total, sizeof(total));
	first_line("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", unused, sizeof(unused));
	first_line("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", promised, sizeof(promised));
	if (atol(total) > 0)
		found(f, "huge pages", HEALTH_OK, NULL,
		      "%s of 2 MiB, %s free, %s of these promised: a guest of %ld MiB, or of half that with both ends here",
		      total, unused, promised, (atol(unused) - atol(promised)) * 2);
	else
		found(f, "huge pages", HEALTH_WITHOUT, total[0] ? "sysctl -w vm.nr_hugepages=512" : NULL,
		      total[0] ? "none is reserved: --memory-kind hugetlb and hugetlb-memfd find none"
			       : "this kernel has no hugetlbfs");
	first_line("/sys/kernel/mm/transparent_hugepage/enabled", thp, sizeof(thp));
	mode = strchr(thp, '[');
	end = mode ? strchr(mode, ']') : NULL;
	if (end)
		*end = 0;
	if (end && strcmp(mode + 1, "never"))
		found(f, "transparent huge", HEALTH_OK, NULL, "%s", mode + 1);
	else
		found(f, "transparent huge", HEALTH_WITHOUT,
		      end ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" : NULL,
		      end ? "never: guests run on pages of 4 KiB"
			  : "not in this kernel: guests run on pages of 4 KiB");
}

void probe_memory(struct findings *f)
{
	probe_memlock(f);
	probe_huge(f);
}

/* --- RDMA --- */

#ifdef FERRY_HAVE_VERBS
static const char *odp_text(const struct ibv_device_attr_ex *a)
{
	if (!(a->odp_caps.general_caps & IBV_ODP_SUPPORT))
		return "no on-demand paging";
	return a->odp_caps.general_caps & IBV_ODP_SUPPORT_IMPLICIT ? "on-demand paging, implicit too"
								   : "on-demand paging";
}

static void probe_port(struct findings *f, struct ibv_context *ctx, const char *name, uint8_t port)
{
	struct ibv_port_attr p;
	char mend[200];

	if (ibv_query_port(ctx, port, &p))
		return;
	snprintf(mend, sizeof(mend), "rdma link show %.40s/%u", name, port);
	found(f, "rdma port", p.state == IBV_PORT_ACTIVE ? HEALTH_OK : HEALTH_WITHOUT, mend,
	      "%.40s/%u: %s, %s, MTU %u of %u", name, port, ibv_port_state_str(p.state),
	      p.link_layer == IBV_LINK_LAYER_ETHERNET ? "Ethernet (RoCE)" : "InfiniBand",
	      128u << p.active_mtu, 128u << p.max_mtu);
}

static void probe_device(struct findings *f, struct ibv_device *dev)
{
	const char *name = ibv_get_device_name(dev);
	struct ibv_context *ctx = ibv_open_device(dev);
	struct ibv_device_attr_ex a = { 0 };

	if (!ctx || ibv_query_device_ex(ctx, NULL, &a)) {
		found(f, "rdma device", HEALTH_WITHOUT, "chmod 666 /dev/infiniband/uverbs*", "%.40s: %s",
		      name, strerror(errno));
		if (ctx)
			ibv_close_device(ctx);
		return;
	}
	found(f, "rdma device", HEALTH_OK, NULL,
	      "%.40s: regions of up to %llu MiB, %d reads in flight per QP, %s", name,
	      (unsigned long long)a.orig_attr.max_mr_size >> 20, a.orig_attr.max_qp_rd_atom, odp_text(&a));
	for (uint8_t port = 1; port <= a.orig_attr.phys_port_cnt; port++)
		probe_port(f, ctx, name, port);
	ibv_close_device(ctx);
}

void probe_rdma(struct findings *f)
{
	int n = 0;
	struct ibv_device **list = ibv_get_device_list(&n);

	if (!list || !n)
		found(f, "rdma", HEALTH_WITHOUT, "rdma link add rxe0 type rxe netdev eth0",
		      "no RDMA device: TCP moves the memory (soft-RoCE works over any Ethernet device, for tests)");
	for (int i = 0; list && i < n; i++)
		probe_device(f, list[i]);
	if (list)
		ibv_free_device_list(list);
}
#else
void probe_rdma(struct findings *f)
{
	found(f, "rdma", HEALTH_WITHOUT, "apt-get install libibverbs-dev librdmacm-dev",
	      "this program was built without libibverbs: TCP moves the memory");
}
#endif

/* --- links --- */

static int mtu_of(const char *name)
{
	struct ifreq r = { 0 };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), mtu = -1;

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (s < 0)
		s = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s >= 0 && !ioctl(s, SIOCGIFMTU, &r))
		mtu = r.ifr_mtu;
	if (s >= 0)
		close(s);
	return mtu;
}

static void probe_link(struct findings *f, const char *name)
{
	char path[128], speed[64], mend[200], rate[80] = "";
	int mtu = mtu_of(name);

	snprintf(path, sizeof(path), "/sys/class/net/%.32s/speed", name);
	if (atol(first_line(path, speed, sizeof(speed))) > 0)
		snprintf(rate, sizeof(rate), ", %.16s Mb/s", speed);
	snprintf(mend, sizeof(mend), "ip link set dev %.32s mtu 9000", name);
	if (mtu >= 9000)
		found(f, "link", HEALTH_OK, NULL, "%.32s: MTU %d%s", name, mtu, rate);
	else
		found(f, "link", HEALTH_WITHOUT, mend,
		      "%.32s: MTU %d%s; frames of 9000 bytes cost less CPU, if switch and peer support them",
		      name, mtu, rate);
}

/* Each interface once, however many addresses it has. */
void probe_links(struct findings *f)
{
	struct if_nameindex *all = if_nameindex();
	struct ifaddrs *addrs = NULL;
	unsigned links = 0;

	if (getifaddrs(&addrs))
		addrs = NULL;
	for (const struct if_nameindex *i = all; i && i->if_index; i++) {
		bool up = false, addressed = false;

		for (const struct ifaddrs *a = addrs; a; a = a->ifa_next) {
			if (strcmp(a->ifa_name, i->if_name))
				continue;
			up = (a->ifa_flags & (IFF_UP | IFF_LOOPBACK)) == IFF_UP;
			addressed = addressed || (a->ifa_addr && (a->ifa_addr->sa_family == AF_INET ||
								  a->ifa_addr->sa_family == AF_INET6));
		}
		if (!up || !addressed || links == 16)
			continue;
		links++;
		probe_link(f, i->if_name);
	}
	if (!links)
		found(f, "link", HEALTH_WITHOUT, NULL,
		      "only the loopback interface is up: both ends must be on this machine");
	if_freenameindex(all);
	freeifaddrs(addrs);
}

/* --- tools --- */

static bool on_path(const char *program)
{
	const char *path = getenv("PATH");
	char name[4096];

	while (path && *path) {
		size_t len = strcspn(path, ":");

		snprintf(name, sizeof(name), "%.*s/%s", (int)len, path, program);
		if (!access(name, X_OK))
			return true;
		path += len + (path[len] == ':');
	}
	return false;
}

void probe_tools(struct findings *f)
{
	if (on_path("gnuplot"))
		found(f, "gnuplot", HEALTH_OK, NULL, "draws recordings");
	else
		found(f, "gnuplot", HEALTH_WITHOUT, "apt-get install gnuplot-nox",
		      "not installed: rdma-migrate plot and sweep cannot draw");
}
