import sys,time,warnings,json,random as rnd
warnings.simplefilter("ignore")
import numpy as np, optuna
from optuna.samplers import TPESampler, RandomSampler
from optuna.trial import TrialState
from copy import copy
from bisect import insort
optuna.logging.set_verbosity(optuna.logging.ERROR)
import benchmarks.table as T
import os
if os.environ.get("Q16"):
    T.SPACE=T.Space({**T.SPACE,"width":T.Choice([16])})
from benchmarks.table import *
from benchmarks.simulator import simulate
import benchmarks.contenders as C

class View(optuna.Study):
    def __init__(self, study, trials): vars(self).update(vars(study)); self._tr=trials
    def _get_trials(self, deepcopy=True, states=None, use_cache=False):
        return [t for t in self._tr if states is None or t.state in states]

class Halve:
    """stop rule"""
    def __init__(s, eta=3, grace=1, mode="ray", window=None, best=False, cap_slack=1, rungs=None, lcb=0):
        s.eta,s.mode,s.window,s.best=eta,mode,window,best
        s.rungs=rungs or []
        if not rungs:
            r=grace
            while r<EPOCHS: s.rungs.append(round(r)); r*=eta
        s.rec={r:[] for r in s.rungs}; s.go={r:0 for r in s.rungs}
    def goes_on(s, number, epoch, curve):
        if epoch not in s.rec: return True
        v=min(curve) if s.best else curve[-1]
        rec=s.rec[epoch]
        prev=rec[-s.window:] if s.window else rec
        if s.mode=="ray":
            ok = not prev or v<=np.percentile(prev,100/s.eta)
        elif s.mode=="rank":  # top ceil((n)/eta) incl itself
            k=len(prev)+1; rank=sum(p<v for p in prev)
            ok = rank < max(1,round(k/s.eta)) 
        elif s.mode=="cap":
            n=len(rec)+1; rank=sum(p<v for p in rec)
            ok = rank < max(1,n/s.eta) and (s.go[epoch] < max(1,n/s.eta) or rank==0)
        rec.append(v); s.go[epoch]+=ok
        return ok

class Proto:
    def __init__(self, seed, sched, judge="asis", dedupe=True, group=True, startup=10, cand=24, gamma=None, liar=True, prior=None, weights=None, rungs=(1,3,9,27), eta=3, startup_all=False, eps=0.0):
        kw={}
        if gamma: kw["gamma"]=gamma
        if prior: kw["prior_weight"]=prior
        if weights: kw["weights"]=weights
        self.s=TPESampler(seed=seed,multivariate=True,group=group,constant_liar=liar,n_startup_trials=startup,n_ei_candidates=cand,**kw)
        self.study=optuna.create_study(sampler=RandomSampler(seed=seed+999))
        self.sched=sched; self.judge=judge; self.dedupe=dedupe; self.seen=set(); self.rungs=rungs; self.eta=eta
        self.tr={}; self.curves={}; self.rng=rnd.Random(seed); self.eps=eps
        self.dists={n:(optuna.distributions.CategoricalDistribution(p.options) if isinstance(p,Choice) else optuna.distributions.FloatDistribution(p.low,p.last,step=p.step) if isinstance(p,Float) else optuna.distributions.IntDistribution(p.low,p.high)) for n,p in SPACE.items()}
        self.frozen=[]
        self.state={}
    def order(self):
        """J2"""
        ids=list(self.curves)
        def sub(ids, level):
            r=self.rungs[level]
            have=[i for i in ids if len(self.curves[i])>=r]; lack=[i for i in ids if len(self.curves[i])<r]
            have.sort(key=lambda i:min(self.curves[i][:r]))
            if level+1<len(self.rungs) and have:
                k=max(1,-(-len(have)//self.eta))
                have=sub(have[:k],level+1)+have[k:]
            return have+lack
        return sub(ids,0)
    def view(self):
        trials=[]
        if self.judge=="asis": return self.frozen
        order={n:i for i,n in enumerate(self.order())}
        for f in self.frozen:
            if f.number in order:
                if f.state==TrialState.RUNNING and self.judge=="rejudge_done": trials.append(f); continue
                g=copy(f); g.state=TrialState.COMPLETE; g.values=[float(order[f.number])]; trials.append(g)
            else: trials.append(f)
        return trials
    def draw(self, number):
        t=optuna.trial.FrozenTrial(number=number,state=TrialState.RUNNING,value=None,datetime_start=None,datetime_complete=None,params={},distributions={},user_attrs={},system_attrs={},intermediate_values={},trial_id=self.tid)
        samp=self.s if self.rng.random()>=self.eps else RandomSampler(seed=self.rng.getrandbits(31))
        v=View(self.study,self.view())
        for attempt in range(16):
            rel=samp.sample_relative(v,t,samp.infer_relative_search_space(v,t))
            p={}
            for n in SPACE:
                if SPACE.is_active(n,p): p[n]=rel[n] if n in rel else samp.sample_independent(v,t,n,self.dists[n])
            if not self.dedupe or T._key(p) not in self.seen: return p
        for _ in range(256):
            p={}
            for n,prm in SPACE.items():
                if SPACE.is_active(n,p): p[n]=self.rng.choice(list(prm.values()))
            if T._key(p) not in self.seen: return p
        return p
    def ask(self):
        n=self.sched.ready() if hasattr(self.sched,"ready") else None
        if n is not None: return n, self.frozen[n].params
        number=len(self.frozen)
        tr=self.study.ask(); self.tid=tr._trial_id
        p=self.draw(number); self.seen.add(T._key(p))
        self.frozen.append(optuna.trial.FrozenTrial(number=number,state=TrialState.RUNNING,value=None,datetime_start=None,datetime_complete=None,params=p,distributions={n:self.dists[n] for n in p},user_attrs={},system_attrs={},intermediate_values={},trial_id=tr._trial_id))
        return number,p
    def tell(self,number,epoch,loss):
        f=self.frozen[number]; f.intermediate_values[epoch]=loss
        c=self.curves.setdefault(number,[]); c.append(loss)
        if epoch==EPOCHS:
            f.state=TrialState.COMPLETE; f.values=[min(c)]; self.finish(f); return False
        if self.sched.goes_on(number,epoch,c): return True
        if hasattr(self.sched,"ready"): return False
        f.state=TrialState.PRUNED; self.finish(f); return False
    def finish(self,f):
        # keep group decomposition informed
        self.study._storage.set_trial_state_values(f._trial_id, TrialState.PRUNED) if False else None

def best_curve(tb, ev, workers, grid):
    """best loss known at compute grid (full trainings)"""
    full=tb.epoch_s.mean()*EPOCHS
    t=np.array([e.ended_s*workers/full for e in ev]); b=np.minimum.accumulate([e.loss for e in ev])
    i=np.searchsorted(t,grid,side="right")-1
    return np.where(i>=0,b[np.maximum(i,0)],np.nan)

def iqm(x,axis=0):
    x=np.sort(x,axis=axis); n=x.shape[axis]; k=n//4
    return x[k:n-k].mean(axis=axis)


class Promote:
    """pause at rungs; promote when capacity: go_k < n_k/eta, the best waiting, highest rung first"""
    def __init__(s, eta=3, rungs=(1,3,9), best=True, order="high", asha=False, keep=True):
        s.eta,s.rungs,s.best,s.order,s.asha,s.keep=eta,rungs,best,order,asha,keep
        s.wait={r:{} for r in rungs}; s.go={r:0 for r in rungs}; s.n={r:0 for r in rungs}; s.vals={r:[] for r in rungs}
    def goes_on(s, number, epoch, curve):
        if epoch not in s.n: return True
        v=min(curve) if s.best else curve[-1]
        s.n[epoch]+=1; s.wait[epoch][number]=v; s.vals[epoch].append(v)
        if s.keep and s.pick(epoch)==number: s.take(epoch,number); return True
        return False
    def pick(s,r):
        w=s.wait[r]
        if not w: return None
        b=min(w,key=lambda i:(w[i],i))
        if s.asha:
            k=int(s.n[r]//s.eta)
            return b if sum(x<w[b] for x in s.vals[r])<k else None
        return b if s.go[r]<s.n[r]//s.eta else None
    def take(s,r,i): s.go[r]+=1; del s.wait[r][i]
    def ready(s):
        for r in (reversed(s.rungs) if s.order=="high" else s.rungs):
            i=s.pick(r)
            if i is not None: s.take(r,i); return i
        return None

import logging
logging.getLogger("ray.tune.search.optuna.optuna_search").setLevel(logging.ERROR)
NAMES=list(SPACE)
ISCAT=np.array([isinstance(p,Choice) for p in SPACE.values()])
NOPT=np.array([len(p.options) if isinstance(p,Choice) else 0 for p in SPACE.values()])
def enc(p):
    out=np.full(len(NAMES),np.nan)
    for j,n in enumerate(NAMES):
        if n in p:
            q=SPACE[n]
            out[j]=q.options.index(p[n]) if ISCAT[j] else (p[n]-q.low)/((q.last if isinstance(q,Float) else q.high)-q.low)
    return out
class Own(Proto):
    def __init__(self, seed, sched, judge="rejudge", cand=64, startup=10, gfrac=0.1, gmax=25, gmin=1, bw=0.2, catb=1.0, prior=1.0, dedupe=True, eps=0.0, rungs=(1,3,9,27), eta=3, liar=True, gsqrt=None, minbw=0.0, temp=None):
        self.sched=sched; self.judge=judge; self.cand=cand; self.startup=startup; self.gfrac=gfrac; self.gmax=gmax; self.gmin=gmin; self.bw=bw; self.catb=catb; self.prior=prior
        self.dedupe=dedupe; self.seen=set(); self.eps=eps; self.rungs=rungs; self.eta=eta; self.liar=liar; self.gsqrt=gsqrt; self.minbw=minbw
        self.r=np.random.default_rng(seed); self.frozen=[]; self.curves={}; self.X=np.zeros((0,len(NAMES)))
        class S: pass
        self.done={}
    def uniform(self):
        p={}
        for n,q in SPACE.items():
            if SPACE.is_active(n,p):
                v=list(q.values()); p[n]=v[self.r.integers(len(v))]
        return p
    def kernel(self, idx):
        """params of mixture"""
        X=self.X[idx]; n=len(idx)
        d=len(NAMES)
        sig=max(self.bw*max(n,1)**(-1/(d+4)),self.minbw)
        return X,sig,n
    def logpdf(self,C,mix):
        X,sig,n=mix
        if n==0: return np.zeros(len(C))
        L=np.zeros((len(C),n))
        from math import erf
        for j in range(len(NAMES)):
            c=C[:,j][:,None]; x=X[:,j][None,:]
            both=~np.isnan(c)&~np.isnan(x)
            if ISCAT[j]:
                w=self.catb/n; k=NOPT[j]
                lp=np.where(c==x,np.log((1+w)/(1+k*w)),np.log(w/(1+k*w)))+np.log(k)
            else:
                from scipy.special import ndtr
                z=np.log(sig*np.sqrt(2*np.pi)*(ndtr((1-x)/sig)-ndtr((0-x)/sig)))
                lp=-.5*((c-x)/sig)**2-z
            L+=np.where(both,lp,0)
        w=self.prior/(n+self.prior)
        m=np.maximum(L.max(1),0)
        return m+np.log(np.exp(L-m[:,None]).sum(1)*(1-w)/n+w*np.exp(-m))
    def sample(self,mix):
        X,sig,n=mix
        i=self.r.integers(n+1) if self.prior else self.r.integers(n)
        if n==0 or i==n: return self.uniform()
        x=X[i]; p={}
        for j,(nm,q) in enumerate(SPACE.items()):
            if not SPACE.is_active(nm,p): continue
            vals=self.vals[j]
            if np.isnan(x[j]): p[nm]=vals[self.r.integers(len(vals))]
            elif ISCAT[j]:
                w=self.catb/n; k=NOPT[j]
                if self.r.random()< (1+w)/(1+k*w): p[nm]=vals[int(x[j])]
                else: p[nm]=vals[self.r.integers(k)]
            else:
                while True:
                    v=x[j]+sig*self.r.standard_normal()
                    if 0<=v<=1: break
                p[nm]=vals[int(round(v*(len(vals)-1)))]
        return p
    vals=[list(q.values()) for q in SPACE.values()]
    def draw(self):
        valued=len(self.done) if not self.judge.startswith("rejudge_live") else len(self.curves)
        if len(self.curves)<self.startup or self.r.random()<self.eps:
            for _ in range(99):
                p=self.uniform()
                if T._key(p) not in self.seen: return p
            return p
        if self.judge=="asis":
            fin=[i for i in self.done]; 
            o=sorted(fin,key=lambda i:(0,0,min(self.curves[i])) if len(self.curves[i])==EPOCHS else (1,-len(self.curves[i]),self.curves[i][-1]))
        else: o=[i for i in self.order()]
        n=len(o)
        k=min(int(np.ceil(self.gfrac*n)),self.gmax) if not self.gsqrt else min(int(np.ceil(self.gsqrt*n**.5)),self.gmax)
        k=max(k,self.gmin)
        good=o[:k]; s=set(good)
        bad=[i for i in range(len(self.X)) if i not in s and (self.liar or i in self.curves)]
        G=self.kernel(good); Bm=self.kernel(bad)
        cs=[self.sample(G) for _ in range(self.cand)]
        if self.dedupe:
            cs=[c for c in cs if T._key(c) not in self.seen]
            if not cs:
                for _ in range(256):
                    c=self.sample(G)
                    if T._key(c) not in self.seen: return c
                for _ in range(256):
                    p=self.uniform()
                    if T._key(p) not in self.seen: return p
                return p
        E=np.array([enc(c) for c in cs])
        a=self.logpdf(E,G)-self.logpdf(E,Bm)
        return cs[int(np.argmax(a))]
    def ask(self):
        n=self.sched.ready() if hasattr(self.sched,"ready") else None
        if n is not None: return n, self.frozen[n]
        p=self.draw(); self.seen.add(T._key(p)); self.frozen.append(p); self.X=np.vstack([self.X,enc(p)]); return len(self.frozen)-1,p
    def tell(self,number,epoch,loss):
        c=self.curves.setdefault(number,[]); c.append(loss)
        if epoch==EPOCHS: self.done[number]=1; return False
        if self.sched.goes_on(number,epoch,c): return True
        self.done[number]=1
        return False

from orchestrator import parzen
class Real(Own):
    """vectorised"""
    def __init__(self,*a,bwr=None,eager=False,**k):
        super().__init__(*a,**k); self.axes=parzen.Axes(SPACE); self.pl=[]; self.eager=eager
    def uniform(self):
        return self.axes.params(self.axes.settle(self.axes.uniform(self.r,1))[0])
    def draw(self):
        obs = self.curves
        if (len(self.curves) if self.eager else len(self.done))<self.startup:
            for _ in range(99):
                p=self.uniform()
                if T._key(p) not in self.seen: return p
            return p
        if self.judge=="asis":
            o=sorted(self.done,key=lambda i:(0,0,min(self.curves[i])) if len(self.curves[i])==EPOCHS else (1,-len(self.curves[i]),self.curves[i][-1]))
        elif self.judge=="level":  # live too: epochs reached then value
            o=sorted(self.curves,key=lambda i:(-max(r for r in self.rungs if r<=len(self.curves[i])),min(self.curves[i][:max(r for r in self.rungs if r<=len(self.curves[i]))])))
        elif self.judge=="top":  # largest rung with >= k*? obs
            o=self.order()
        else: o=self.order()
        n=len(o)
        k=min(int(np.ceil(self.gfrac*n)),self.gmax) if not self.gsqrt else min(int(np.ceil(self.gsqrt*n**.5)),self.gmax)
        k=max(k,self.gmin); good=o[:k]; s=set(good)
        if self.dedupe:
            out=parzen.propose(self.axes,[self.pl[i] for i in good],[self.pl[i] for i in range(len(self.pl)) if i not in s],self.r,candidates=self.cand)
            if out: return self.axes.params(out[0])
        for _ in range(256):
            p=self.uniform()
            if T._key(p) not in self.seen: return p
        return p
    def ask(self):
        n,p=super().ask()
        if n==len(self.pl): self.pl.append(self.axes.place(p))
        return n,p
