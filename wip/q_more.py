
V.update({
 "pro": lambda s: Proto(s,Promote(),judge="asis"),
 "repro": lambda s: Proto(s,Promote(),judge="rejudge"),
 "repro_asha": lambda s: Proto(s,Promote(asha=True),judge="rejudge"),
 "repro_lo": lambda s: Proto(s,Promote(order="low"),judge="rejudge"),
 "repro_cur": lambda s: Proto(s,Promote(best=False),judge="rejudge"),
 "repro4": lambda s: Proto(s,Promote(eta=4,rungs=(1,4,16)),judge="rejudge",rungs=(1,4,16,27),eta=4),
 "repro2": lambda s: Proto(s,Promote(eta=2,rungs=(1,2,4,8,16)),judge="rejudge",rungs=(1,2,4,8,16,27),eta=2),
 "repro_nod": lambda s: Proto(s,Promote(),judge="rejudge",dedupe=False),
})
V.update({
 "o0": lambda s: Own(s,Halve(3),judge="asis"),
 "ocap": lambda s: Own(s,Halve(3,mode="cap"),judge="asis"),
 "orecap": lambda s: Own(s,Halve(3,mode="cap")),
 "ore": lambda s: Own(s,Halve(3)),
 "orepro": lambda s: Own(s,Promote()),
 "orepro_asha": lambda s: Own(s,Promote(asha=True)),
 "orepro_nod": lambda s: Own(s,Promote(),dedupe=False),
 "orepro2": lambda s: Own(s,Promote(eta=2,rungs=(1,2,4,8,16)),rungs=(1,2,4,8,16,27),eta=2),
 "orepro4": lambda s: Own(s,Promote(eta=4,rungs=(1,4,16)),rungs=(1,4,16,27),eta=4),
})
V.update({
 "r0": lambda s: Real(s,Halve(3),judge="asis"),
 "rcap": lambda s: Real(s,Halve(3,mode="cap"),judge="asis"),
 "rre": lambda s: Real(s,Halve(3),judge="rejudge"),
 "rrecap": lambda s: Real(s,Halve(3,mode="cap"),judge="rejudge"),
 "rlevcap": lambda s: Real(s,Halve(3,mode="cap"),judge="level"),
 "rlev": lambda s: Real(s,Halve(3),judge="level"),
})
V.update({
 "r0e": lambda s: Real(s,Halve(3),judge="asis",eager=True),
 "rcape": lambda s: Real(s,Halve(3,mode="cap"),judge="asis",eager=True),
 "rree": lambda s: Real(s,Halve(3),judge="rejudge",eager=True),
})
