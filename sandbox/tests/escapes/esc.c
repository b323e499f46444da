// esc <attempt> [args]: one sandbox-escape/abuse attempt. Prints exactly one of
//   ESCAPED <detail>  (attempt succeeded)         exit 0
//   BLOCKED <errno>   (kernel/sandbox refused it) exit 42
// Build: gcc -O1 -w -static -o esc esc.c -lpthread
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <unistd.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <pthread.h>
#include <dirent.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/stat.h>
#include <sys/resource.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <mqueue.h>
#include <grp.h>
#include <sys/sysmacros.h>
static void ESC(const char*d){printf("ESCAPED %s\n",d);fflush(0);_exit(0);} 
static void BLK(void){printf("BLOCKED %s\n",strerror(errno));fflush(0);_exit(42);} 
#define T(expr,d) do{ errno=0; long r_=(long)(expr); if(r_<0) BLK(); else ESC(d);}while(0)
static char**A; static int AC; static char*arg(int i){return i<AC?A[i]:"";}
struct ca{unsigned long long flags,pidfd,child_tid,parent_tid,exit_signal,stack,stack_size,tls,set_tid,set_tid_size,cgroup;};
static int tcp(const char*ip,int port,int proto){int s=socket(AF_INET,SOCK_STREAM,proto); if(s<0)return -1; struct timeval tv={2,0}; setsockopt(s,SOL_SOCKET,SO_SNDTIMEO,&tv,sizeof tv); struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(port)}; inet_pton(AF_INET,ip,&a.sin_addr); return connect(s,(void*)&a,sizeof a);} 
static int un(const char*p,int abs_,int type){int s=socket(AF_UNIX,type,0); if(s<0)return -1; struct sockaddr_un u={.sun_family=AF_UNIX}; size_t n=strlen(p); memcpy(u.sun_path+(abs_?1:0),p,n); return connect(s,(void*)&u,sizeof(sa_family_t)+n+1);} 
static void*spin(void*x){pause();return 0;}
int main(int c,char**v){ A=v+2; AC=c-2; char*n=c>1?v[1]:""; int hp=getenv("HOSTPID")?atoi(getenv("HOSTPID")):1; 
#define IS(x) if(!strcmp(n,x))
 IS("unshare_user") T(unshare(CLONE_NEWUSER),"new userns");
 IS("unshare_mnt") T(unshare(CLONE_NEWNS),"new mntns");
 IS("unshare_net") T(unshare(CLONE_NEWNET),"new netns");
 IS("clone_newuser"){ long r=syscall(SYS_clone,CLONE_NEWUSER|SIGCHLD,0,0,0,0); if(r==0)_exit(0); T(r,"clone NEWUSER"); }
 IS("clone3_newuser"){ struct ca a={.flags=CLONE_NEWUSER,.exit_signal=SIGCHLD}; long r=syscall(435,&a,sizeof a); if(r==0)_exit(0); T(r,"clone3 NEWUSER"); }
 IS("setns"){ char p[64]; snprintf(p,64,"/proc/%d/ns/%s",atoi(arg(0)),arg(1)); int f=open(p,O_RDONLY); if(f<0)BLK(); struct stat s1,s2; char q[64]; snprintf(q,64,"/proc/self/ns/%s",arg(1)); stat(p,&s1); stat(q,&s2); T(setns(f,0),"setns"); }
 IS("mount_tmpfs") T(mount("t","/tmp","tmpfs",0,0),"mounted");
 IS("remount_rw") T(mount(0,arg(0),0,MS_REMOUNT|MS_BIND,0),"remounted rw");
 IS("umount") T(umount2(arg(0),MNT_DETACH),"unmounted");
 IS("pivot_root") T(syscall(SYS_pivot_root,".","."),"pivoted");
 IS("move_mount"){ int t=syscall(428,AT_FDCWD,"/",1); T(t,"open_tree clone"); }
 IS("fsopen") T(syscall(430,"tmpfs",0),"fsopen");
 IS("chroot_escape"){ mkdir("jail",0755); int fd=open(".",O_RDONLY); if(chroot("jail"))BLK(); fchdir(fd); for(int i=0;i<40;i++)chdir(".."); T(chroot("."),"chroot breakout"); }
 IS("mknod") T(mknod(arg(0),S_IFBLK|0600,makedev(254,0)),"block node created");
 IS("mknod_chr"){ if(mknod("kmem",S_IFCHR|0666,makedev(1,1)))BLK(); T(open("kmem",O_RDWR),"opened mem"); }
 IS("open_by_handle"){ struct{struct file_handle h; char b[128];}x={0}; x.h.handle_bytes=8; x.h.handle_type=1; *(unsigned*)x.h.f_handle=2; int m=open("/",O_RDONLY); T(syscall(SYS_open_by_handle_at,m,&x,O_RDONLY),"opened by handle"); }
 IS("fdscan"){ int k=0; char d[256]=""; for(int i=3;i<1024;i++) if(fcntl(i,F_GETFD)>=0){ char p[64],t[128]; snprintf(p,64,"/proc/self/fd/%d",i); int r=readlink(p,t,127); t[r>0?r:0]=0; snprintf(d+strlen(d),200-strlen(d)>0?60:0,"%d=%s ",i,t); k++; if(k>3)break;} errno=EBADF; if(k)ESC(d); BLK(); }
 IS("fd_direscape"){ for(int i=3;i<64;i++){ int f=openat(i,"../../../../../../etc/hostname",O_RDONLY); if(f>=0)ESC("openat via inherited dirfd");} BLK(); }
 IS("opendotdot"){ char p[512]; snprintf(p,512,"../../../../../../../../../..%s/secret",getenv("FIX")?getenv("FIX"):""); T(open(p,O_RDONLY),"dotdot"); }
 IS("self_exe_write") T(open("/proc/self/exe",O_WRONLY|O_TRUNC),"opened own exe rw");
 IS("pid1_exe_write") T(open("/proc/1/exe",O_WRONLY),"opened init exe for write");
 IS("pid1_mem") T(open("/proc/1/mem",O_RDWR),"opened /proc/1/mem");
 IS("kill") T(kill(atoi(arg(0)),0),"can signal host pid");
 IS("ptrace") T(ptrace(PTRACE_ATTACH,atoi(arg(0)),0,0),"attached");
 IS("ptrace_seize_child"){ pid_t p=fork(); if(!p){pause();} T(ptrace(PTRACE_SEIZE,p,0,0),"ptrace own child (filter allows ptrace)"); }
 IS("vm_readv"){ char b[8]; struct iovec l={b,8},r={(void*)0x400000,8}; T(process_vm_readv(atoi(arg(0)),&l,1,&r,1,0),"read"); }
 IS("vm_readv_self"){ char b[8],s[8]="x"; struct iovec l={b,8},r={s,8}; T(process_vm_readv(getpid(),&l,1,&r,1,0),"syscall reachable"); }
 IS("pidfd_open") T(syscall(434,atoi(arg(0)),0),"pidfd on host pid");
 IS("pidfd_getfd"){ int f=syscall(434,getppid(),0); if(f<0)BLK(); T(syscall(438,f,0,0),"stole parent's fd"); }
 IS("kcmp") T(syscall(SYS_kcmp,getpid(),getpid(),0,0,0),"kcmp reachable");
 IS("setuid0"){ uid_t o=getuid(); if(o==0){errno=0;ESC("already uid 0");} T(setuid(0),"setuid 0"); }
 IS("setgroups"){ gid_t g[1]={0}; T(setgroups(1,g),"setgroups"); }
 IS("nnp"){ if(prctl(PR_GET_NO_NEW_PRIVS,0,0,0,0)==1){errno=EPERM;BLK();} ESC("no_new_privs is 0"); }
 IS("nnp_clear") T(prctl(PR_SET_NO_NEW_PRIVS,0,0,0,0),"cleared nnp");
 IS("capeff"){ FILE*f=fopen("/proc/self/status","r"); char l[256]; unsigned long long e=0,b=0; while(f&&fgets(l,256,f)){ sscanf(l,"CapEff: %llx",&e); sscanf(l,"CapBnd: %llx",&b);} if(!f)BLK(); snprintf(l,256,"CapEff=%llx CapBnd=%llx",e,b); errno=EPERM; if(e||b)ESC(l); BLK(); }
 IS("capbnd_only_eff"){ FILE*f=fopen("/proc/self/status","r"); char l[256]; unsigned long long e=0; while(f&&fgets(l,256,f)) sscanf(l,"CapEff: %llx",&e); errno=EPERM; if(e){snprintf(l,256,"CapEff=%llx",e);ESC(l);} BLK(); }
 IS("seccomp_on"){ int m=prctl(PR_GET_SECCOMP,0,0,0,0); errno=EPERM; if(m==2)BLK(); ESC("seccomp mode not filter"); }
 IS("nice") T(setpriority(PRIO_PROCESS,0,-20),"nice -20");
 IS("sched_fifo"){ struct sched_param p={50}; T(sched_setscheduler(0,SCHED_FIFO,&p),"SCHED_FIFO"); }
 IS("ioprio_rt") T(syscall(SYS_ioprio_set,1,0,(1<<13)|0),"ioprio RT");
 IS("rlimit_raise"){ struct rlimit r; getrlimit(RLIMIT_NOFILE,&r); r.rlim_max+=1000; r.rlim_cur=r.rlim_max; T(setrlimit(RLIMIT_NOFILE,&r),"raised hard nofile"); }
 IS("prlimit_host"){ struct rlimit r={10,10}; T(prlimit(atoi(arg(0)),RLIMIT_CPU,&r,0),"prlimit on host pid"); }
 IS("personality") T(syscall(SYS_personality,0x0040000),"ADDR_NO_RANDOMIZE");
 IS("oom_adj"){ int f=open("/proc/self/oom_score_adj",O_WRONLY); if(f<0)BLK(); T(write(f,"-1000",5),"oom_score_adj -1000"); }
 IS("core"){ struct rlimit r; getrlimit(RLIMIT_CORE,&r); errno=EPERM; if(r.rlim_max==0)BLK(); ESC("core dumps possible"); }
 IS("dumpable_parent"){ if(getenv("NOPIDNS")){} int f=open("/proc/1/environ",O_RDONLY); char b[8]; if(f<0)BLK(); T(read(f,b,8)>0?0:-1,"read init/launcher environ"); }
 IS("x32"){ errno=0; long r=syscall(0x40000000|SYS_getpid); if(r<0)BLK(); r=syscall(0x40000000|101,0,0,0,0); T(r,"x32 ABI reachable"); }
 IS("int80"){ long r; /* ia32 getpid=20 then ptrace=26 */ __asm__ volatile("int $0x80":"=a"(r):"a"(26),"b"(0),"c"(0),"d"(0),"S"(0):"memory"); if(r<0){errno=-r;BLK();} ESC("ia32 int80 ptrace(TRACEME) bypassed filter"); }
 IS("bpf"){ char a[128]={0}; *(int*)a=2;*(int*)(a+4)=4;*(int*)(a+8)=4;*(int*)(a+12)=1; T(syscall(SYS_bpf,0,a,128),"bpf map"); }
 IS("perf"){ char a[128]={0}; *(int*)a=1;*(int*)(a+4)=112; T(syscall(298,a,0,-1,-1,0),"perf_event"); }
 IS("perf_user"){ unsigned long long a[16]={0}; ((int*)a)[0]=1;((int*)a)[1]=112; a[5]=(1<<5)|(1<<6); T(syscall(298,a,0,-1,-1,0),"perf_event exclude_kernel"); }
 IS("io_uring"){ char b[256]={0}; T(syscall(425,4,b),"io_uring"); }
 IS("userfaultfd") T(syscall(323,O_CLOEXEC|1),"userfaultfd user-mode");
 IS("add_key") T(syscall(248,"user","meshesc","x",1,-3),"add_key session keyring");
 IS("keyctl_join") T(syscall(250,1,0),"joined session keyring");
 IS("init_module") T(syscall(SYS_init_module,"",0,""),"init_module");
 IS("kexec") T(syscall(SYS_kexec_load,0,0,0,0),"kexec_load");
 IS("reboot") T(syscall(SYS_reboot,0xfee1dead,672274793,0x89ABCDEF/*CAD_ON: harmless*/,0),"reboot CAD");
 IS("swapon") T(syscall(SYS_swapon,"/tmp/x",0),"swapon");
 IS("acct") T(syscall(SYS_acct,0),"acct");
 IS("syslog") T(syscall(SYS_syslog,10,0,0),"syslog SIZE_BUFFER");
 IS("quotactl") T(syscall(SYS_quotactl,0x800001<<8,"/dev/vda",0,0),"quotactl");
 IS("clock_settime"){ struct timespec t; clock_gettime(CLOCK_REALTIME,&t); T(clock_settime(CLOCK_REALTIME,&t),"clock set"); }
 IS("adjtimex"){ char b[256]={0}; syscall(SYS_adjtimex,b); *(int*)b=2; T(syscall(SYS_adjtimex,b),"adjtimex set freq (same value)"); }
 IS("sethostname") {char h[65]; gethostname(h,64); T(sethostname(h,strlen(h)),"hostname set");};
 IS("iopl") T(syscall(SYS_iopl,3),"iopl");
 IS("ioperm") T(syscall(SYS_ioperm,0x80,1,1),"ioperm");
 IS("fanotify") T(syscall(SYS_fanotify_init,0x200,0),"fanotify");
 IS("mbind") T(syscall(SYS_set_mempolicy,0,0,0),"set_mempolicy");
 IS("seccomp_notif"){ struct{unsigned short c;unsigned char a,b;unsigned k;}f[]={{6,0,0,0x7fff0000}}; struct{unsigned short l;void*f;}p={1,f}; T(syscall(317,1,8,&p),"seccomp NEW_LISTENER (nested supervisor)"); }
 IS("tiocsti"){ char ch='x'; for(int i=0;i<3;i++){ if(!ioctl(i,0x5412,&ch))ESC("TIOCSTI"); if(errno!=ENOTTY)BLK(); } int f=open("/dev/tty",O_RDWR); if(f<0)BLK(); T(ioctl(f,0x5412,&ch),"TIOCSTI /dev/tty"); }
 IS("tiocsti_hi"){ char ch='x'; long r=-1; for(int i=0;i<3;i++){ r=syscall(SYS_ioctl,i,0x100005412UL,&ch); if(!r)ESC("TIOCSTI high bits"); if(errno==EPERM)BLK();} BLK(); }
 IS("tioclinux"){ char b=3; int f=open("/dev/tty0",O_RDWR); if(f<0)f=0; T(ioctl(f,0x541C,&b),"TIOCLINUX"); }
 IS("open_rw"){ T(open(arg(0),O_RDWR|O_NONBLOCK),arg(0)); }
 IS("open_w"){ T(open(arg(0),O_WRONLY|O_NONBLOCK),arg(0)); }
 IS("open_r"){ T(open(arg(0),O_RDONLY|O_NONBLOCK),arg(0)); }
 IS("tcp") T(tcp(arg(0),atoi(arg(1)),0),"tcp connect");
 IS("mptcp") T(tcp(arg(0),atoi(arg(1)),262),"mptcp connect");
 IS("sctp") T(tcp(arg(0),atoi(arg(1)),132),"sctp connect");
 IS("tfo"){ int s=socket(AF_INET,SOCK_STREAM,0); if(s<0)BLK(); struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(atoi(arg(1)))}; inet_pton(AF_INET,arg(0),&a.sin_addr); T(sendto(s,"x",1,MSG_FASTOPEN,(void*)&a,sizeof a),"TCP fastopen sendto"); }
 IS("udp"){ int s=socket(AF_INET,SOCK_DGRAM,0); if(s<0)BLK(); struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(atoi(arg(1)))}; inet_pton(AF_INET,arg(0),&a.sin_addr); T(sendto(s,"x",1,0,(void*)&a,sizeof a),"udp sent"); }
 IS("udp6"){ int s=socket(AF_INET6,SOCK_DGRAM,0); if(s<0)BLK(); struct sockaddr_in6 a={.sin6_family=AF_INET6,.sin6_port=htons(53)}; inet_pton(AF_INET6,arg(0),&a.sin6_addr); T(sendto(s,"x",1,0,(void*)&a,sizeof a),"udp6 sent"); }
 IS("raw") T(socket(AF_INET,SOCK_RAW,1),"raw icmp socket");
 IS("ping"){ int s=socket(AF_INET,SOCK_DGRAM,1); if(s<0)BLK(); struct sockaddr_in a={.sin_family=AF_INET}; inet_pton(AF_INET,arg(0),&a.sin_addr); char p[8]={8}; T(sendto(s,p,8,0,(void*)&a,sizeof a),"icmp echo sent"); }
 IS("packet") T(socket(AF_PACKET,SOCK_RAW,0x300),"AF_PACKET");
 IS("netlink") T(socket(AF_NETLINK,SOCK_RAW,0),"AF_NETLINK route");
 IS("netlink_kobj") T(socket(AF_NETLINK,SOCK_RAW,15),"AF_NETLINK uevent");
 IS("alg") T(socket(38,SOCK_SEQPACKET,0),"AF_ALG");
 IS("vsock"){ int s=socket(40,SOCK_STREAM,0); if(s<0)BLK(); ESC("AF_VSOCK socket reachable (host bridge)"); }
 IS("tipc") T(socket(30,SOCK_SEQPACKET,0),"AF_TIPC");
 IS("bt") T(socket(31,SOCK_RAW,1),"AF_BLUETOOTH");
 IS("unix") T(un(arg(0),0,SOCK_STREAM),"connected path socket");
 IS("abstract") T(un(arg(0),1,SOCK_STREAM),"connected abstract socket");
 IS("bindtodev"){ int s=socket(AF_INET,SOCK_STREAM,0); if(s<0)BLK(); T(setsockopt(s,SOL_SOCKET,SO_BINDTODEVICE,"eth0",5),"bindtodevice"); }
 IS("somark"){ int s=socket(AF_INET,SOCK_STREAM,0); if(s<0)BLK(); int m=1; T(setsockopt(s,SOL_SOCKET,36,&m,4),"SO_MARK"); }
 IS("shm"){ int id=shmget(0x4d455348,4096,0); T(id,"attached host SysV shm"); }
 IS("mq"){ mqd_t q=mq_open("/meshfix",O_RDONLY|O_NONBLOCK); T(q,"opened host POSIX mq"); }
 IS("memfd_exec"){ int f=syscall(319,"x",0); if(f<0)BLK(); int s=open("/proc/self/exe",O_RDONLY); char b[65536]; int r; while((r=read(s,b,65536))>0)write(f,b,r); if(!AC){char*av[]={"esc","capbnd_only_eff",0};char*ev[]={0};syscall(322,f,"",av,ev,0x1000);} BLK(); }
 IS("suid_file"){ int f=open("suid",O_CREAT|O_RDWR,0755); fchmod(f,04755); struct stat s; fstat(f,&s); errno=EPERM; if(s.st_mode&S_ISUID)ESC("setuid bit stored in home"); BLK(); }
 IS("truncate") T(truncate(arg(0),0),"truncated read-only path");
 IS("rename_out") T(rename(arg(0),arg(1)),"renamed");
 IS("link") T(link(arg(0),arg(1)),"hardlinked host file");
 IS("utimes") T(utimensat(AT_FDCWD,arg(0),0,0),"touched mtime of ro path");
 IS("chmod") T(chmod(arg(0),0777),"chmod on ro path");
 IS("xattr") T(setxattr(arg(0),"user.x","1",1,0),"setxattr on ro path");
 IS("memlock"){ size_t s=256<<20; void*p=mmap(0,s,3,34,-1,0); if(p==MAP_FAILED)BLK(); T(mlock(p,s),"mlocked 256M"); }
 IS("membomb"){ size_t t=0; for(;;){ char*p=mmap(0,1<<20,3,34,-1,0); if(p==MAP_FAILED)BLK(); memset(p,1,1<<20); t++; if(t>=atoi(arg(0)))ESC("allocated past limit"); } }
 IS("forkbomb"){ int k=0; for(;;){ pid_t p=fork(); if(p<0)break; if(!p){pause();_exit(0);} if(++k>=atoi(arg(0))){kill(0,SIGKILL);ESC("forked past limit");} } int e=errno; printf("BLOCKED %s after %d forks\n",strerror(e),k); fflush(0); signal(SIGTERM,SIG_IGN); kill(0,SIGTERM); _exit(42); }
 IS("threadbomb"){ int k=0; pthread_attr_t a; pthread_attr_init(&a); pthread_attr_setstacksize(&a,65536); for(;;){ pthread_t t; int r=pthread_create(&t,&a,spin,0); if(r){ printf("BLOCKED %s after %d threads\n",strerror(r),k); fflush(0); _exit(42);} if(++k>=atoi(arg(0)))ESC("threads past limit"); } }
 IS("fdbomb"){ int k=0; while(open("/dev/null",O_RDONLY)>=0) if(++k>=atoi(arg(0)))ESC("fds past limit"); BLK(); }
 IS("diskfill"){ int f=open(arg(0),O_CREAT|O_WRONLY,0600); if(f<0)BLK(); char*b=calloc(1,1<<20); long m=atoi(arg(1)),k=0; while(write(f,b,1<<20)==(1<<20)) if(++k>=m){unlink(arg(0));ESC("wrote past disk limit");} int e=errno; unlink(arg(0)); errno=e; BLK(); }
 IS("inodes"){ long m=atoi(arg(1)),k=0; char p[256]; mkdir(arg(0),0700); for(;k<m;k++){ snprintf(p,256,"%s/f%ld",arg(0),k); int f=open(p,O_CREAT|O_WRONLY,0600); if(f<0){int e=errno; while(k--){snprintf(p,256,"%s/f%ld",arg(0),k);unlink(p);} errno=e;BLK();} close(f);} while(k--){snprintf(p,256,"%s/f%ld",arg(0),k);unlink(p);} ESC("inodes past limit"); }
 IS("ptybomb"){ int k=0; while(open("/dev/ptmx",O_RDWR|O_NOCTTY)>=0) if(++k>=atoi(arg(0)))ESC("ptys past limit"); BLK(); }
 IS("daemon"){ /* double fork + setsid, tagged by argv */ if(fork()==0){ setsid(); if(fork()==0){ prctl(PR_SET_PDEATHSIG,0); close(0);close(1);close(2); for(;;)sleep(1);} _exit(0);} sleep(0); usleep(50000); printf("STARTED\n"); return 0; }
 IS("holdpipe"){ if(fork()==0){ setsid(); signal(SIGHUP,SIG_IGN); for(;;)sleep(1);} printf("STARTED\n"); return 0; }
 IS("ignterm"){ sigset_t s; sigfillset(&s); sigprocmask(SIG_BLOCK,&s,0); signal(SIGTERM,SIG_IGN); printf("STARTED\n"); fflush(0); for(;;)pause(); }
 IS("selfstop"){ printf("STARTED\n"); fflush(0); kill(getpid(),SIGSTOP); for(;;)pause(); }
 IS("flood"){ char b[65536]; memset(b,'A',65536); for(int i=1024;i<65536;i+=1024)b[i]='\n'; long m=atol(arg(0)); for(long i=0;i<m*16;i++) if(write(1,b,65536)<0)BLK(); return 0; }
 IS("longline"){ char b[65536]; memset(b,'A',65536); long m=atol(arg(0)); for(long i=0;i<m*16;i++) if(write(1,b,65536)<0)BLK(); return 0; }
 IS("badutf8"){ unsigned char b[]={0xff,0xfe,0xc0,0x80,0,0xed,0xa0,0x80,0x1b,']','0',';','p','w','n',7,0x1b,'[','2','J','\r','\n'}; write(1,b,sizeof b); return 0; }
 IS("nostdin"){ printf("STARTED\n"); fflush(0); for(;;)pause(); }
 IS("closestdio"){ close(0);close(1);close(2); for(;;)pause(); }
 IS("cpuspin"){ int k=atoi(arg(0)); for(int i=0;i<k;i++) if(!fork()) for(;;); sleep(2); struct rusage r; kill(0,SIGTERM); return 0; }
 IS("sigqueue"){ sigset_t s; sigfillset(&s); sigprocmask(SIG_BLOCK,&s,0); int k=0; union sigval x={0}; while(!sigqueue(getpid(),SIGRTMIN,x)) if(++k>=atoi(arg(0)))ESC("pending signals past limit"); BLK(); }
 IS("deepdir"){ int k=0; for(;k<5000;k++){ if(mkdir("dddddddddddddddddddddddddddddddddddddddddddddddddd",0700)||chdir("dddddddddddddddddddddddddddddddddddddddddddddddddd"))break;} printf("STARTED depth %d\n",k); return 0; }
 IS("sparse"){ int f=open("sparse",O_CREAT|O_RDWR,0600); if(ftruncate(f,1LL<<40))BLK(); printf("STARTED 1TiB sparse\n"); return 0; }
 IS("suid_dir"){ mkdir("sg",0755); if(chmod("sg",02755))BLK(); struct stat t; stat("sg",&t); errno=EPERM; if(t.st_mode&S_ISGID)ESC("set-group-id bit stored in home"); BLK(); }
 IS("suid_create"){ int f=open("suid2",O_CREAT|O_EXCL|O_RDWR,04755); if(f<0)BLK(); struct stat t; fstat(f,&t); errno=EPERM; if(t.st_mode&S_ISUID)ESC("created with the setuid bit"); BLK(); }
 IS("fchmodat2"){ close(open("suid3",O_CREAT|O_RDWR,0755)); T(syscall(452,AT_FDCWD,"suid3",04755,0),"fchmodat2 with setuid"); }
 /* Whole classes rather than examples: every family, protocol, flag and call of a kind. */
 IS("families"){ for(int f=0;f<64;f++){ if(f==AF_UNIX||f==AF_INET||f==AF_INET6)continue; for(int t=1;t<=10;t++){ int s=socket(f,t,0); if(s>=0){char d[64];snprintf(d,64,"family %d type %d",f,t);ESC(d);} } } errno=EPERM; BLK(); }
 IS("protocols"){ int fs[]={AF_INET,AF_INET6}; for(int i=0;i<2;i++)for(int t=1;t<=10;t++)for(int p=0;p<=262;p++){ if((t==SOCK_STREAM&&(p==0||p==IPPROTO_TCP))||(t==SOCK_DGRAM&&(p==0||p==IPPROTO_UDP)))continue; int s=socket(fs[i],t,p); if(s>=0){char d[64];snprintf(d,64,"family %d type %d protocol %d",fs[i],t,p);ESC(d);} } errno=EPERM; BLK(); }
 IS("ns_flags"){ int fl[]={CLONE_NEWNS,CLONE_NEWCGROUP,CLONE_NEWUTS,CLONE_NEWIPC,CLONE_NEWUSER,CLONE_NEWPID,CLONE_NEWNET}; for(int i=0;i<7;i++){ long r=syscall(SYS_clone,fl[i]|SIGCHLD,0,0,0,0); if(r==0)_exit(0); if(r>0)ESC("clone"); r=syscall(SYS_clone,CLONE_NEWUSER|fl[i]|SIGCHLD,0,0,0,0); if(r==0)_exit(0); if(r>0)ESC("clone with a user namespace"); if(!unshare(fl[i]))ESC("unshare"); struct ca a={.flags=fl[i],.exit_signal=SIGCHLD}; r=syscall(435,&a,sizeof a); if(r==0)_exit(0); if(r>0)ESC("clone3"); } if(!unshare(0x80))ESC("unshare time"); errno=EPERM; BLK(); }
 IS("setns_pidfd"){ int f=syscall(434,1,0); if(f<0)BLK(); T(setns(f,CLONE_NEWNET|CLONE_NEWNS),"joined pid 1 by its pidfd"); }
 IS("mount_calls"){ int n[]={428,429,430,431,432,433,442,467}; for(int i=0;i<8;i++){ errno=0; long r=syscall(n[i],-1,"/",0,0,0); if(r>=0||(errno!=EPERM&&errno!=ENOSYS)){char d[64];snprintf(d,64,"call %d: %s",n[i],strerror(errno));ESC(d);} } errno=EPERM; BLK(); }
 IS("handle"){ struct{struct file_handle h; char b[128];}x={0}; int m=0; x.h.handle_bytes=128; T(syscall(SYS_name_to_handle_at,AT_FDCWD,"/",&x,&m,0),"a handle of the root"); }
 IS("getfd_pid1"){ int f=syscall(434,1,0); if(f<0)BLK(); for(int i=0;i<32;i++) if(syscall(438,f,i,0)>=0)ESC("a descriptor of pid 1"); BLK(); }
 IS("traceme") T(ptrace(PTRACE_TRACEME,0,0,0),"traced by the parent");
 IS("vm_writev_self"){ char b[8]="y",s[8]="x"; struct iovec l={b,8},r={s,8}; T(process_vm_writev(getpid(),&l,1,&r,1,0),"wrote"); }
 IS("madvise_pid1"){ int f=syscall(434,1,0); if(f<0)BLK(); struct iovec v={0,4096}; long r=syscall(440,f,&v,1,21,0); if(r>=0||errno!=EPERM)ESC("process_madvise"); BLK(); }
 IS("mrelease_pid1"){ int f=syscall(434,1,0); if(f<0)BLK(); T(syscall(448,f,0),"process_mrelease"); }
 IS("request_key") T(syscall(249,"user","meshesc",0,-3),"request_key");
 IS("quotactl_fd"){ int f=open(".",O_RDONLY); long r=syscall(443,f,0x800007<<8,0,0); if(r<0&&(errno==EPERM||errno==ENOSYS))BLK(); ESC("quotactl_fd"); }
 IS("ioctls"){ unsigned long q[]={0x5412,0x541C,0x5423,0x541D,0xffffffff00005412UL,0x7fffffff0000541cUL}; char b[64]={0}; for(int i=0;i<6;i++)for(int f=0;f<3;f++){ errno=0; long r=syscall(SYS_ioctl,f,q[i],b); if(r>=0||errno!=EPERM){char d[64];snprintf(d,64,"ioctl %lx: %s",q[i],strerror(errno));ESC(d);} } errno=EPERM; BLK(); }
 IS("readimplies") T(syscall(SYS_personality,0x0400000),"READ_IMPLIES_EXEC");
 IS("securebits") T(prctl(PR_SET_SECUREBITS,1,0,0,0),"securebits");
 IS("ambient"){ for(int c=0;c<41;c++) if(!prctl(47,2,c,0,0))ESC("an ambient capability"); BLK(); }
 IS("capset"){ struct{unsigned v;int p;}h={0x20080522,0}; struct{unsigned e,p,i;}d[2]={{~0u,~0u,~0u},{0x1ff,0x1ff,0x1ff}}; T(syscall(SYS_capset,&h,d),"all capabilities"); }
 IS("bounding"){ for(int c=0;c<41;c++) if(prctl(PR_CAPBSET_READ,c,0,0,0)==1)ESC("a capability is in the bounding set"); errno=EPERM; BLK(); }
 IS("link_fd"){ int f=open(arg(0),O_RDONLY|O_PATH); if(f<0)BLK(); if(!linkat(f,"",AT_FDCWD,"stolen",AT_EMPTY_PATH))ESC("linked by descriptor"); char p[64]; snprintf(p,64,"/proc/self/fd/%d",f); T(linkat(AT_FDCWD,p,AT_FDCWD,"stolen",AT_SYMLINK_FOLLOW),"linked through /proc"); }
 IS("write_all"){ char*p[]={"/proc/self/uid_map","/proc/self/gid_map","/proc/self/setgroups","/proc/self/projid_map","/proc/self/attr/current","/proc/self/attr/exec","/proc/self/loginuid","/proc/sys/net/ipv4/ip_forward","/proc/sys/kernel/domainname","/proc/sys/kernel/shmmax","/proc/sys/user/max_user_namespaces","/proc/sys/fs/mqueue/msg_max","/proc/sys/kernel/ns_last_pid","/proc/1/comm","/proc/1/clear_refs","/proc/1/timerslack_ns"}; for(int i=0;i<16;i++){ int f=open(p[i],O_WRONLY); if(f>=0&&write(f,"0 0 1\n",6)>0)ESC(p[i]); if(f>=0)close(f);} errno=EACCES; BLK(); }
 IS("read_all"){ char*p[]={"/proc/1/maps","/proc/1/auxv","/proc/1/syscall","/proc/1/stack","/proc/1/io","/proc/1/pagemap","/proc/1/exe","/proc/1/root/etc/passwd","/proc/1/cwd/.","/proc/1/fd/0","/proc/1/map_files","/proc/1/fdinfo/0","/proc/kcore","/proc/kpagecount","/proc/kpageflags","/proc/kmsg","/proc/vmallocinfo","/proc/slabinfo","/proc/timer_list","/proc/sched_debug","/proc/bus/pci/devices","/proc/fs/ext4","/proc/acpi","/proc/scsi/scsi","/proc/mtrr","/sys/kernel/debug","/sys/fs/cgroup/cgroup.procs","/run/systemd","/var/log","/etc/ssh","/root","/boot"}; char b[8]; for(int i=0;i<32;i++){ int f=open(p[i],O_RDONLY|O_NONBLOCK); if(f<0)continue; if(read(f,b,8)>0)ESC(p[i]); DIR*d=fdopendir(f); struct dirent*e; int k=0; while(d&&(e=readdir(d)))if(e->d_name[0]!='.')k++; if(k)ESC(p[i]); } errno=EACCES; BLK(); }
 IS("tells_host"){ char*p[]={"/proc/self/cgroup","/proc/self/mountinfo","/proc/self/mounts","/proc/self/maps"}; char*w=getenv("FIX"); for(int i=0;i<4;i++){ FILE*f=fopen(p[i],"r"); char l[4096]; while(f&&fgets(l,4096,f)) if(w&&strstr(l,w)&&i!=1)ESC(p[i]); } errno=ENOENT; BLK(); }
 IS("dup_streams"){ for(int i=0;i<3;i++){ char p[64]; snprintf(p,64,"/proc/self/fd/%d",i); struct stat t; if(fstat(i,&t)||S_ISDIR(t.st_mode))ESC(p); if(!S_ISFIFO(t.st_mode)&&!S_ISCHR(t.st_mode))ESC(p); if(!fchmod(i,0777)&&geteuid()!=t.st_uid)ESC("fchmod of a stream"); } errno=EBADF; BLK(); }
 IS("mmap_low"){ void*p=mmap((void*)0,4096,PROT_READ|PROT_WRITE,MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED,-1,0); if(p==MAP_FAILED)BLK(); ESC("mapped page zero"); }
 IS("pipe_big"){ int q[2]; pipe(q); T(fcntl(q[0],1031,1<<30),"a pipe of a gigabyte"); }
 IS("steal_mount"){ if(symlink("/etc/passwd","l")&&errno!=EEXIST)BLK(); int f=open("l",O_WRONLY); if(f>=0)ESC("wrote through a link"); if(!rename(getenv("HOME"),"/tmp/h"))ESC("moved the home away"); if(!rmdir(getenv("HOME")))ESC("removed the home"); BLK(); }
 /* Not an attack: what the host has outside, for rows that look for it. */
 IS("fixtures"){ int id=shmget(0x4d455348,4096,IPC_CREAT|0666); struct mq_attr a={.mq_maxmsg=1,.mq_msgsize=8}; umask(0); mqd_t q=mq_open("/meshfix",O_CREAT|O_RDWR,0666,&a); printf("READY %d %d\n",id>=0,q!=(mqd_t)-1); fflush(0); pause(); if(AC&&id>=0)shmctl(id,IPC_RMID,0); return 0; }
 printf("UNKNOWN %s\n",n); return 99; }
