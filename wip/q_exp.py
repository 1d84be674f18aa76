import sys,pickle,os,time
sys.path.insert(0,"/tmp")
from q_proto import *
task=sys.argv[1]; names=sys.argv[2].split(","); S=int(sys.argv[3]); B=float(sys.argv[4])
tb=load(task); best=tb.losses.min()
full=tb.epoch_s.mean()*EPOCHS
GRID=np.geomspace(0.5,100,160)
V={
 "optsearch": C.CONTENDERS["OptunaSearch + ASHA"],
 "hyperband": C.CONTENDERS["Optuna TPE + Hyperband"],
 "halving": C.CONTENDERS["Optuna TPE + halving"],
 "randasha": C.CONTENDERS["random + ASHA"],
 "random": C.CONTENDERS["random"],
 "p0": lambda s: Proto(s,Halve(3),dedupe=False),
 "p0d": lambda s: Proto(s,Halve(3)),
 "win": lambda s: Proto(s,Halve(3,mode="ray",window=30)),
 "rank": lambda s: Proto(s,Halve(3,mode="rank",window=30)),
 "rankall": lambda s: Proto(s,Halve(3,mode="rank")),
 "cap": lambda s: Proto(s,Halve(3,mode="cap")),
 "capb": lambda s: Proto(s,Halve(3,mode="cap",best=True)),
 "cap4": lambda s: Proto(s,Halve(4,mode="cap")),
 "cap2": lambda s: Proto(s,Halve(2,mode="cap")),
 "re": lambda s: Proto(s,Halve(3),judge="rejudge"),
 "recap": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge"),
 "rewin": lambda s: Proto(s,Halve(3,mode="ray",window=30),judge="rejudge"),
 "redcap": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge_done"),
 "recap_nog": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge",group=False),
 "recap_s20": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge",startup=20),
 "recap_s5": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge",startup=5),
 "recap_g": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge",gamma=lambda n:min(int(np.ceil(.25*n**.5)),25)),
 "recap_g15": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge",gamma=lambda n:int(np.ceil(.15*n))),
 "recap_e": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge",eps=.2),
 "recap_w": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge",weights=np.ones),
 "recap_c": lambda s: Proto(s,Halve(3,mode="cap"),judge="rejudge",cand=64),
 "randcap": None,
}
exec(open("/tmp/q_more.py").read()) if os.path.exists("/tmp/q_more.py") else None
def get(name,W):
    p=f"/tmp/q_cache/{task}-{name}-{W}-{S}-{B}.pkl"
    if os.path.exists(p): return pickle.load(open(p,"rb"))
    t=time.time(); b=100.0 if name=="random" else B
    out=[]; nt=[]
    for s in range(200 if name=="random" else S):
        ev=simulate(V[name](s),tb,workers=W,compute_s=b*full)
        out.append(best_curve(tb,ev,W,GRID)-best); nt.append(len({e.number for e in ev}))
    r=(np.array(out),np.mean(nt),time.time()-t); os.makedirs("/tmp/q_cache",exist_ok=True); pickle.dump(r,open(p,"wb")); return r
for W in (4,16):
    target=iqm(get("random",W)[0])[-1]
    print(f"{task} W={W} target regret {target:.5f}")
    for n in names:
        r,nt,dt=get(n,W); m=iqm(r)
        ok=(GRID<=(100 if n=="random" else B))
        hit=np.argmax((m<=target)&ok) if ((m<=target)&ok).any() else -1
        # per-seed log time to reach target, censored
        ts=[GRID[np.argmax((x<=target)&ok)] if ((x<=target)&ok).any() else B*1.5 for x in r]
        g=[np.searchsorted(GRID,b) for b in (2,4,8,16,30,50)]
        print(f"  {n:12s} cross {GRID[hit] if hit>=0 else float('nan'):6.1f} geo {np.exp(np.mean(np.log(ts))):6.1f} trials {nt:5.0f} {dt/len(r):4.1f}s/seed  "+" ".join(f"{m[i]:.5f}" if i<len(m) and ok[i] else "   -   " for i in g),flush=True)
