"""Fits as jobs: a folder holds what was asked for, how it stands, and what came of it; workers take one after another.

    request     what is asked for, as job.json has it
    job         one job's folder, and its status
    folder      the folder of all jobs
    claim       who works on a job, until it ends or dies
    kinds       what each recipe needs, and gives
    submit      checks a request with its files, and puts it there
    plan        from a request to a recipe with its pictures
    watch       keeps the state, paints previews, hears of cancels
    work        one job, from where it stands to its end
    worker      takes jobs

All but submit, plan, watch and work do without torch, so that who only reads jobs is quick.
"""
