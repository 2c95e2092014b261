/* A team of threads for one call at a time.
 *
 * A call is a series of phases, and a phase a number of pieces that a counter deals out. A phase ends when its pieces are done, not when
 * all threads have arrived: a thread that the system has descheduled between two pieces keeps nobody waiting. Which
 * thread does a piece never changes its bits. Idle threads spin for a moment, then sleep.
 */
#include <pthread.h>
#include <stdatomic.h>

#define MAX_THREADS 512
#define SPINS 20000

typedef struct {
    _Alignas(64) atomic_llong dealt;
    _Alignas(64) atomic_llong done;
} Phase;

typedef struct {
    int index, count;
    Phase *phase;
} Thread;

typedef void (*Region)(Thread *, void *);

static struct {
    pthread_mutex_t call, sleep;
    pthread_cond_t wake;
    atomic_uint word;           /* number of the call · 1024 | threads that may take part */
    atomic_int open, inside;    /* whether threads may still join the call; how many others are in it */
    unsigned born[MAX_THREADS]; /* the word when a thread was made */
    int made, count;            /* threads there are; threads that take part */
    pid_t owner;
    Region region;
    void *argument;
    Phase *phases;
    int keep; /* denormals */
} team = {
    .call = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .made = 1, .count = 1
};

static void relax(unsigned turn)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (turn % 256 == 255) sched_yield(); /* more threads than processors: let the one that is waited for run */
}

/* The next piece of this phase; the caller calls `done` after it. */
static int64_t deal(Thread *me) { return atomic_fetch_add_explicit(&me->phase->dealt, 1, memory_order_relaxed); }
static void done(Thread *me) { atomic_fetch_add_explicit(&me->phase->done, 1, memory_order_release); }

/* Continue when all pieces of this phase are done. */
static void meet(Thread *me, int64_t pieces)
{
    for (unsigned turn = 0; atomic_load_explicit(&me->phase->done, memory_order_acquire) < pieces; turn++) relax(turn);
    me->phase++;
}

static void take_part(int index, unsigned word)
{
    Thread me = {index, (int)(word % 1024), team.phases};
    const unsigned control = set_denormals(team.keep);
    team.region(&me, team.argument);
    restore_denormals(control);
}

static unsigned next_word(unsigned seen)
{
    unsigned word;
    for (unsigned turn = 0; turn < SPINS; turn++) {
        word = atomic_load_explicit(&team.word, memory_order_acquire);
        if (word != seen) return word;
        relax(turn);
    }
    pthread_mutex_lock(&team.sleep);
    while ((word = atomic_load(&team.word)) == seen) pthread_cond_wait(&team.wake, &team.sleep);
    pthread_mutex_unlock(&team.sleep);
    return word;
}

static void *serve(void *argument)
{
    const int index = (int)(intptr_t)argument;
    unsigned word = team.born[index];
    for (;;) {
        word = next_word(word);
        if (index >= (int)(word % 1024)) continue;
        atomic_fetch_add(&team.inside, 1);
        if (atomic_load(&team.open) && atomic_load(&team.word) == word) take_part(index, word);
        atomic_fetch_sub(&team.inside, 1);
    }
    return NULL;
}

/* Run the region with this many phases on at most `most` threads, keeping denormals or not; return when it is done and no thread is in
 * it any more. */
static void run(Region region, void *argument, Phase *phases, int64_t count, int64_t most, int keep)
{
    pthread_mutex_lock(&team.call);
    for (int64_t i = 0; i < count; i++) {
        atomic_init(&phases[i].dealt, 0);
        atomic_init(&phases[i].done, 0);
    }
    team.region = region;
    team.argument = argument;
    team.phases = phases;
    team.keep = keep;
    const int64_t threads = most < team.count ? most : team.count;
    const unsigned word = (atomic_load(&team.word) / 1024 + 1) * 1024 + (unsigned)threads;
    if (threads > 1) {
        atomic_store(&team.open, 1);
        pthread_mutex_lock(&team.sleep);
        atomic_store(&team.word, word);
        pthread_cond_broadcast(&team.wake);
        pthread_mutex_unlock(&team.sleep);
    }
    take_part(0, word);
    atomic_store(&team.open, 0);
    for (unsigned turn = 0; atomic_load(&team.inside); turn++) relax(turn);
    pthread_mutex_unlock(&team.call);
}

int cf_threads(int wanted)
{
    pthread_mutex_lock(&team.call);
    if (team.owner != getpid()) { /* threads do not survive a fork */
        team.owner = getpid();
        team.made = 1;
        atomic_store(&team.inside, 0);
    }
    wanted = wanted < 1 ? 1 : wanted > MAX_THREADS ? MAX_THREADS : wanted;
    while (team.made < wanted) {
        pthread_t thread;
        team.born[team.made] = atomic_load(&team.word);
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)team.made)) break;
        pthread_detach(thread);
        team.made++;
    }
    const int count = team.count = wanted < team.made ? wanted : team.made;
    pthread_mutex_unlock(&team.call);
    return count;
}
